"""What a site announces before the first round, and whether it may take part."""

import re
from dataclasses import dataclass, field
from typing import Any

from nvflare.apis.dxo import DataKind

from polyclinic.flare.convert import Reply, is_number
from polyclinic.flare.guard import MOST_PATIENTS, Refused
from polyclinic.ledger import Record
from polyclinic.study import Study

_QUARANTINED = "quarantined."
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_MOST_FILES = 1e9
# A site may know reasons that this server does not; the ledger holds every one it names.
_MOST_REASONS = 128


@dataclass(frozen=True)
class Announcement:
    """One site's census.

    Attributes:
        modalities: held, sorted.
        counts: ``n`` and ``n.<modality>``, as the site lets them be known.
        quarantined: files and rows set aside, by reason code.
        version: of polyclinic at the site.
        anchor: the site offers to be the anchor site.
    """

    modalities: tuple[str, ...]
    counts: dict[str, float] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    version: str = ""
    anchor: bool = False

    def record(self) -> Record:
        """The announcement as the ledger has it."""
        return {
            "modalities": list(self.modalities),
            "counts": self.counts,
            "quarantined": self.quarantined,
            "version": self.version,
            **({"anchor": True} if self.anchor else {}),
        }


def read_census(reply: Reply, study: Study, most_patients: int = MOST_PATIENTS) -> Announcement:
    """A site's announcement, checked against the study.

    Args:
        most_patients: largest count a site may claim.

    Raises:
        Refused: reasons kind, study (another study than the job's), modalities, scalars, weight.
    """
    if reply.kind != DataKind.METRICS.value or reply.tensors:
        raise Refused("kind", expected="facts only", got="another kind of message")
    said = reply.scalars
    fingerprint = said.get("fingerprint")
    if not isinstance(fingerprint, str) or fingerprint != study.fingerprint():
        raise Refused("study", expected="the job's study", got="another fingerprint")
    held = said.get("modalities")
    plain = isinstance(held, list) and all(isinstance(m, str) for m in held)
    if not plain or not held or not set(held) <= set(study.modalities):
        raise Refused("modalities", expected="modalities of the study", got="others, or none")
    modalities = tuple(sorted(set(held)))
    version = said.get("version")
    return Announcement(
        modalities,
        _counts(said, modalities, most_patients),
        _quarantined(said),
        version if isinstance(version, str) and _WORD.fullmatch(version) else "",
        _offers(said),
    )


def _offers(said: dict[str, Any]) -> bool:
    """Whether the site offers to be the anchor site: it says 1, or nothing."""
    if "anchor" not in said:
        return False
    if not is_number(said["anchor"]) or said["anchor"] != 1:
        raise Refused("scalars", expected="an offer that is 1", got="another value")
    return True


def _counts(
    said: dict[str, Any], modalities: tuple[str, ...], most_patients: int
) -> dict[str, float]:
    """``n`` and ``n.<modality>``, no modality with more patients than there are."""
    names = ("n", *(f"n.{m}" for m in modalities))
    counts = {name: said[name] for name in names if name in said}
    if "n" not in counts or not all(is_number(n) for n in counts.values()):
        raise Refused("scalars", expected="counts of patients", got="others, or none")
    told = {name: float(n) for name, n in counts.items()}
    if not all(0 <= n <= told["n"] <= most_patients for n in told.values()):
        raise Refused(
            "weight", expected=f"0 <= n.<modality> <= n <= {most_patients}", got="other counts"
        )
    return told


def _quarantined(said: dict[str, Any]) -> dict[str, int]:
    """Files and rows set aside, by reason code."""
    quarantined = {
        name.removeprefix(_QUARANTINED): count
        for name, count in said.items()
        if isinstance(name, str) and name.startswith(_QUARANTINED)
    }
    good = len(quarantined) <= _MOST_REASONS and all(
        _WORD.fullmatch(reason) and is_number(count) and 0 <= count <= _MOST_FILES
        for reason, count in quarantined.items()
    )
    if not good:
        raise Refused("scalars", expected="quarantine counts by reason", got="others")
    return {reason: int(count) for reason, count in quarantined.items()}
