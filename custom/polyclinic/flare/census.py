"""What a site announces before the first round, and whether it may take part."""

import re
from dataclasses import dataclass, field

from nvflare.apis.dxo import DataKind

from polyclinic.flare.convert import Reply, is_number
from polyclinic.flare.guard import Refused
from polyclinic.ledger import Record
from polyclinic.study import Study

_QUARANTINED = "quarantined."
_WORD = re.compile(r"^[A-Za-z0-9_.+-]{1,64}$")


@dataclass(frozen=True)
class Announcement:
    """One site's census.

    Attributes:
        modalities: held, sorted.
        counts: ``n`` and ``n.<modality>``, as the site lets them be known.
        quarantined: files and rows set aside, by reason code.
        version: of polyclinic at the site.
    """

    modalities: tuple[str, ...]
    counts: dict[str, float] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    version: str = ""

    def record(self) -> Record:
        """The announcement as the ledger has it."""
        return {
            "modalities": list(self.modalities),
            "counts": self.counts,
            "quarantined": self.quarantined,
            "version": self.version,
        }


def read_census(reply: Reply, study: Study) -> Announcement:
    """A site's announcement, checked against the study.

    Raises:
        Refused: reasons kind, study (another study than the job's), modalities, scalars.
    """
    if reply.kind != DataKind.METRICS.value or reply.tensors:
        raise Refused("kind", expected="facts only", got="another kind of message")
    said = reply.scalars
    if said.get("fingerprint") != study.fingerprint():
        raise Refused("study", expected="the job's study", got="another fingerprint")
    held = said.get("modalities")
    if not isinstance(held, list) or not held or not set(map(str, held)) <= set(study.modalities):
        raise Refused("modalities", expected="modalities of the study", got="others, or none")
    modalities = tuple(sorted({str(m) for m in held}))
    names = ("n", *(f"n.{m}" for m in modalities))
    counts = {name: said[name] for name in names if name in said}
    quarantined = {
        name.removeprefix(_QUARANTINED): count
        for name, count in said.items()
        if isinstance(name, str) and name.startswith(_QUARANTINED)
    }
    numbers = [*counts.values(), *quarantined.values()]
    if not all(is_number(count) and count >= 0 for count in numbers):
        raise Refused("scalars", expected="counts", got="others")
    if not all(_WORD.match(reason) for reason in quarantined):
        raise Refused("scalars", expected="quarantine counts by reason", got="others")
    version = str(said.get("version", ""))
    return Announcement(
        modalities,
        {name: float(count) for name, count in counts.items()},
        {reason: int(count) for reason, count in quarantined.items()},
        version if _WORD.match(version) else "",
    )
