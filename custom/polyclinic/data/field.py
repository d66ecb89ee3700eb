"""Which column each feature of a panel is read from, and how."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from polyclinic.data.cell import PLAIN, read_cell
from polyclinic.data.column import FieldFact, Request
from polyclinic.data.units import SAME, Conversion, declared_conversion
from polyclinic.errors import DataError
from polyclinic.study import FieldRule

# Distinct cells of one column that are kept with their numbers; typical tables have far fewer.
REMEMBERED = 1 << 16
# Values set aside before a column can count as wrong as a whole: no small group decides.
MANY = 11


@dataclass(frozen=True)
class Field:
    """One feature.

    Attributes:
        column: of the table, keyword of a header, or concept of a long table.
        conversion: from the unit that the site declares for the column.
    """

    feature: str
    column: str
    rule: FieldRule = PLAIN
    conversion: Conversion = SAME

    @property
    def plain(self) -> bool:
        """Whether a cell is just a number: no bounds, no conversion, no other meaning."""
        rule = self.rule
        bare = rule.reads == "number" and rule.low is None and rule.high is None
        return bare and self.conversion == SAME

    def reader(self, decimal_comma: bool) -> "CellReader":
        """Reads the cells of this field."""
        return CellReader(self, decimal_comma)


class CellReader:
    """Reads cells of one field; a text that comes again costs a look-up only."""

    def __init__(self, field: Field, decimal_comma: bool) -> None:
        self.field, self.decimal_comma = field, decimal_comma
        self.known: dict[str, tuple[float, str]] = {}

    def __call__(self, cell: str) -> tuple[float, str]:
        """The number and what it was made of, or NaN and the cause of its absence."""
        found = self.known.get(cell)
        if found is None:
            field = self.field
            found = read_cell(cell, field.rule, field.conversion, self.decimal_comma)
            if len(self.known) < REMEMBERED:
                self.known[cell] = found
        return found


def column_of(feature: str, rule: FieldRule | None) -> str:
    """The column of a feature: as its rule says, else the feature's own name."""
    return rule.column or feature if rule else feature


def fields_of(request: Request) -> tuple[Field, ...]:
    """The panel of a modality in its order, with conversions.

    Raises:
        DataError: a unit is not declared, or not one the study converts.
    """
    rules = request.modality.fields
    found = []
    for feature in request.modality.features:
        rule = rules.get(feature)
        column = column_of(feature, rule)
        conversion = declared_conversion(request, feature, column)
        found.append(Field(feature, column, rule or PLAIN, conversion))
    return tuple(found)


def named(columns: Iterable[str]) -> Sequence[Field]:
    """Plain fields of the same names as their columns."""
    return [Field(c, c) for c in columns]


def field_facts(
    request: Request, fields: Sequence[Field], patients: Sequence[int], aside: Mapping[int, int]
) -> tuple[FieldFact, ...]:
    """What a person should know of each feature.

    Args:
        patients: that have it, by place in the panel.
        aside: values that were set aside, by place.
    """
    facts = []
    for i, field in enumerate(fields):
        unit = field.rule.units
        if unit and field.conversion != SAME:
            unit = f"{unit} (from {request.source.field_units[field.column]})"
        facts.append(FieldFact(field.feature, patients[i], aside.get(i, 0), unit))
    return tuple(facts)


def require_possible(
    name: str, fields: Sequence[Field], there: Sequence[int], aside: Mapping[int, int]
) -> None:
    """Refuse a column whose values are mostly set aside: it is in another unit or coding.

    Raises:
        DataError: naming the first such feature.
    """
    for i, field in enumerate(fields):
        if aside.get(i, 0) >= MANY and aside[i] > there[i]:
            raise DataError(
                expected=f"values of '{field.feature}' of modality '{name}' that the study calls "
                "possible",
                got="mostly others",
                remedy="compare the column's unit and coding with the study, and declare its unit "
                "under field_units in polyclinic.yaml",
            )
