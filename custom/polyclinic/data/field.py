"""Which column each feature of a panel is read from, and how."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyclinic.data.cell import IMPOSSIBLE, PLAIN, SET_ASIDE, read_cell
from polyclinic.data.column import FieldFact, Request
from polyclinic.data.units import SAME, Conversion, declared_conversion
from polyclinic.errors import DataError
from polyclinic.study import FieldRule

Doubles = npt.NDArray[np.float64]
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


def read_column(
    cells: Sequence[str] | Doubles, reader: CellReader
) -> tuple[Doubles, Counter[str], list[tuple[int, str]]]:
    """Numbers (n,) of a column, causes that are not "", and place and reason of what was set aside.

    Cells that the file stores as numbers are taken at once.
    """
    field = reader.field
    if isinstance(cells, np.ndarray) and field.rule.reads == "number":
        return _bounded(cells, field)
    texts = [_spelled(v) for v in cells.tolist()] if isinstance(cells, np.ndarray) else cells
    known = {c: reader(c) for c in set(texts)}
    number_of = {c: value for c, (value, _) in known.items()}
    values = np.array([number_of[c] for c in texts], dtype=np.float64)
    cause_of = {c: cause for c, (_, cause) in known.items()}
    if not any(cause_of.values()):
        return values, Counter(), []
    told = [cause_of[c] for c in texts]
    causes = Counter(told)
    del causes[""]
    aside = []
    if SET_ASIDE & set(causes):
        aside = [(i, cause) for i, cause in enumerate(told) if cause in SET_ASIDE]
    return values, causes, aside


def _spelled(value: float) -> str:
    """A stored number as the text that a CSV would hold; "" for null."""
    return "" if value != value else repr(value)


def _bounded(cells: Doubles, field: Field) -> tuple[Doubles, Counter[str], list[tuple[int, str]]]:
    """Stored numbers in the study's unit, NaN where the study calls them impossible."""
    values = field.conversion.factor * cells + field.conversion.offset
    low = -np.inf if field.rule.low is None else field.rule.low
    high = np.inf if field.rule.high is None else field.rule.high
    blank, infinite = np.isnan(values), np.isinf(values)
    outside = ~blank & ~infinite & ((values < low) | (values > high))
    causes = Counter(blank=int(blank.sum()), infinite=int(infinite.sum()))
    rows = [(row, IMPOSSIBLE) for row in np.flatnonzero(outside).tolist()]
    causes[IMPOSSIBLE] = len(rows)
    values[outside | infinite] = np.nan
    return values, +causes, rows


def column_of(feature: str, rule: FieldRule | None) -> str:
    """The column of a feature: as its rule says, else the feature's own name."""
    return rule.column or feature if rule else feature


def fields_of(request: Request, *, unit_by_row: bool = False) -> tuple[Field, ...]:
    """The panel of a modality in its order, with conversions.

    Args:
        unit_by_row: the table states a unit in each row, so that none is declared by column.

    Raises:
        DataError: a unit is not declared, or not one the study converts.
    """
    rules = request.modality.fields
    found = []
    for feature in request.modality.features:
        rule = rules.get(feature)
        column = column_of(feature, rule)
        conversion = SAME if unit_by_row else declared_conversion(request, feature, column)
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
