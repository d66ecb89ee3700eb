"""From the unit a site declares for a column to the unit its study states."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from polyclinic.data.column import Request
from polyclinic.errors import DataError
from polyclinic.study import FieldRule


@dataclass(frozen=True)
class Conversion:
    """A number in the study's unit from a number in the site's: ``factor * x + offset``."""

    factor: float = 1.0
    offset: float = 0.0

    def convert(self, value: float) -> float:
        """The number in the study's unit."""
        return value * self.factor + self.offset


SAME = Conversion()


def spelled(unit: str) -> str:
    """A unit in one spelling: without blanks, and with one letter for micro."""
    return "".join(unicodedata.normalize("NFKC", unit).split())


def conversion(rule: FieldRule, declared: str) -> Conversion | None:
    """How to convert from a unit; ``None`` when the rule does not know it."""
    unit = spelled(declared)
    if unit == spelled(rule.units):
        return SAME
    factors = {spelled(u): f for u, f in rule.factors.items()}
    offsets = {spelled(u): f for u, f in rule.offsets.items()}
    return Conversion(factors[unit], offsets.get(unit, 0.0)) if unit in factors else None


def declared_conversion(request: Request, feature: str, column: str) -> Conversion:
    """The conversion of one feature by the unit that the site declares for its column.

    Raises:
        DataError: the study states a unit, the site none or one that is not converted.
    """
    rule = request.modality.fields.get(feature)
    if rule is None or not rule.units:
        return SAME
    declared = request.source.field_units.get(column, "")
    found = conversion(rule, declared) if declared else None
    if found is None:
        raise unit_refused(request.name, feature, rule, declared)
    return found


def unit_refused(name: str, feature: str, rule: FieldRule, declared: str) -> DataError:
    """The error for a unit that is not declared, or not one the study converts."""
    others = f" or one of {', '.join(sorted(rule.factors))}" if rule.factors else ""
    return DataError(
        expected=f"the unit '{rule.units}'{others} for '{feature}' of modality '{name}'",
        got=f"'{declared}'" if declared else "none declared",
        remedy="declare the column's unit under field_units in polyclinic.yaml, or ask for a "
        "factor in the study",
    )


def idle_units(request: Request, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Notes on units that a site declares and nothing compares.

    Args:
        columns: column by feature.
    """
    fields = request.modality.fields
    compared = {c for f, c in columns.items() if f in fields and fields[f].units}
    idle = sorted(set(request.source.field_units) - compared)
    if not idle:
        return ()
    first = ", ".join(idle[:5]) + (", ..." if len(idle) > 5 else "")
    return (f"field_units of column(s) for which the study states no unit: {first}",)
