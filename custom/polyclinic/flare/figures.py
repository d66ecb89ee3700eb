"""Which scalars and metrics may leave a site, and in what range.

A name is built of a listed family and of labels of the study or modalities the site holds, never
of free text; a count is a whole number that is 0 or at least the site's smallest cell.
"""

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from polyclinic.data.quarantine import REASONS
from polyclinic.errors import ContractViolation
from polyclinic.evaluation.metrics import BY_LABEL, METRIC_NAME, MODELS, MOST_METRICS, OVERLAPS
from polyclinic.flare.convert import is_number

FUSED = "fused"
SET_ASIDE = frozenset(REASONS) | {"non_finite"}
SHARES = re.compile(
    r"(?:train|validation|test)/(?:auroc|auprc|balanced_accuracy|dice)(?:/.+)?|filters/personal"
)
# In voxels; no scan has an edge of that many.
DISTANCES = re.compile(r"(?:train|validation|test)/hd95(?:/.+)?")
MAX_DISTANCE = 1e4
SMALL = re.compile(r"(?:train|validation|test)/n(?:/.+)?|quarantined(?:/.+)?")
MAX_ROUND = 10**6
TEXT = {"fingerprint": re.compile(r"[0-9a-f]{64}"), "version": re.compile(r"[0-9a-z.+]{1,32}")}


def leaving_metrics(
    metrics: object,
    held: Sequence[str],
    least: int,
    labels: Sequence[str] = (),
    regions: Sequence[str] = (),
) -> dict[str, float]:
    """The metrics, when each may leave.

    Args:
        labels: of a multi-label task, which scores may be named for.
        regions: of a segmentation, the same.

    Raises:
        ContractViolation: a name or a number that may not, or too many.
    """
    if not isinstance(metrics, Mapping):
        raise refused("metrics by name", type(metrics).__name__)
    if len(metrics) > MOST_METRICS:
        raise refused(f"at most {MOST_METRICS} metrics", f"{len(metrics)}")
    for name, value in metrics.items():
        listed = (
            isinstance(name, str)
            and METRIC_NAME.fullmatch(name)
            and _known(name, held, labels, regions)
        )
        if not listed or not is_number(value):
            raise refused("listed metrics with finite numbers", f"{len(metrics)} with another")
        if SHARES.fullmatch(name) and not 0 <= value <= 1:
            raise refused("a score within [0, 1]", "another number")
        if DISTANCES.fullmatch(name) and not 0 <= value <= MAX_DISTANCE:
            raise refused("a distance within a scan", "another number")
        if SMALL.fullmatch(name):
            _require_count(value, least)
    return {str(name): float(value) for name, value in metrics.items()}


def leaving_scalars(
    scalars: object, held: Sequence[str], least: int, *, names: bool, anchor: bool = False
) -> dict[str, Any]:
    """The scalars, when each may leave; with ``names`` the words of a census among them, and with
    ``anchor`` that the site offers to be the anchor site.

    Raises:
        ContractViolation: a name, word or number that may not.
    """
    if not isinstance(scalars, Mapping):
        raise refused("scalars by name", type(scalars).__name__)
    counts = {"n", *(f"n.{m}" for m in held), *(f"quarantined.{r}" for r in SET_ASIDE)}
    clean: dict[str, Any] = {}
    for name, value in scalars.items():
        if names and name == "modalities" and _are_held(value, held):
            clean[name] = list(value)
        elif names and name in TEXT and isinstance(value, str) and TEXT[name].fullmatch(value):
            clean[name] = value
        elif names and anchor and name == "anchor" and is_number(value) and value == 1:
            clean[name] = 1.0
        elif name in counts and is_number(value):
            _require_count(value, least)
            clean[name] = float(value)
        elif name == "t" and is_number(value) and value in range(MAX_ROUND):
            clean[name] = float(value)
        else:
            raise refused("listed scalars", f"{len(scalars)} with another")
    return clean


def refused(expected: str, got: str) -> ContractViolation:
    """The error of whatever may not leave."""
    return ContractViolation(
        expected=expected, got=got, remedy="nothing left the site; correct the job or the filter"
    )


def _known(name: str, held: Sequence[str], labels: Sequence[str], regions: Sequence[str]) -> bool:
    """Whether the last part of a metric's name is a reason, a label of the study, a modality held
    or a set of them; of a segmentation a region of the study with a set of sequences held."""
    family, _, rest = name.partition("/")
    if family in ("seconds", "filters") or not rest:
        return True
    if family == "quarantined":
        return rest in SET_ASIDE
    if family in ("train", "validation", "test"):
        kind, *parts = rest.split("/")
        if kind in OVERLAPS:
            return bool(regions) and (len(parts) < 2 or _of_region(parts, held, regions))
        if kind in BY_LABEL and parts and parts[0] in labels:
            return True
        return not parts or _combined(parts[0], {*held, FUSED})
    return rest in {*held, FUSED}


def _of_region(parts: Sequence[str], held: Sequence[str], regions: Sequence[str]) -> bool:
    """Whether these are a model, a region of the study and a set of sequences that a site holds."""
    model, region, subset = parts
    return model in MODELS and region in regions and _combined(subset, set(held))


def _combined(text: str, names: Set[str]) -> bool:
    """Whether a text is some of these names, sorted, each once and joined by ``+``."""
    parts = text.split("+")
    return parts == sorted(set(parts)) and set(parts) <= names


def _are_held(value: object, held: Sequence[str]) -> bool:
    """Whether a value is a list of modalities held, each once."""
    if not isinstance(value, list) or not all(isinstance(m, str) for m in value):
        return False
    return len(set(value)) == len(value) and set(value) <= set(held)


def _require_count(value: Any, least: int) -> None:
    """Pass a whole number that is 0 or large enough.

    Raises:
        ContractViolation: any other.
    """
    if value < 0 or value != int(value):
        raise refused("counts that are whole numbers", "another number")
    if 0 < value < least:
        raise refused(f"no count below {least}", "a smaller one")
