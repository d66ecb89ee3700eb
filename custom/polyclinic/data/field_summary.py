"""What may be told of a panel by feature: how often it is there, its unit, what was set aside."""

from collections.abc import Sequence

from polyclinic.data.column import FieldFact
from polyclinic.data.suppression import cell

# Longer panels are told by their worst features only.
SHOWN_FIELDS = 64

Told = dict[str, dict[str, float | int | str]]


def field_summary(facts: Sequence[FieldFact], rows: int, minimum: int) -> Told:
    """Share of the rows that have a feature, its unit and values set aside, by feature.

    A share that would reveal a group smaller than ``minimum`` is hidden; panels of more than
    ``SHOWN_FIELDS`` are not told feature by feature.

    Args:
        rows: that carry the modality.
        minimum: rows of the smallest group that is shown.
    """
    if rows < minimum or len(facts) > SHOWN_FIELDS:
        return {}
    told: Told = {}
    for fact in facts:
        told[fact.feature] = {"present": _share(fact.rows, rows, minimum)}
        if fact.unit:
            told[fact.feature]["unit"] = fact.unit
        if fact.set_aside:
            told[fact.feature]["set_aside"] = cell(fact.set_aside, minimum)
    return told


def _share(there: int, rows: int, minimum: int) -> float | str:
    small = 0 < there < minimum or 0 < rows - there < minimum
    return "hidden" if small else round(there / rows, 3)


def sentence(told: Told) -> str:
    """The features in one line: ``age 98.2%; crp 73.7% mg/L (from mg/dL)``."""
    parts = []
    for feature, facts in told.items():
        present = facts["present"]
        share = f"{present:.1%}" if isinstance(present, float) else str(present)
        parts.append(" ".join(str(w) for w in (feature, share, facts.get("unit", "")) if w))
    return "; ".join(parts)
