"""How a table of measurements is laid out: a row per moment, or a row per measurement."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from polyclinic.data.cell import SET_ASIDE, UNKNOWN_UNIT
from polyclinic.data.chunk import Cells, Chunk, Stream
from polyclinic.data.clock import Ints
from polyclinic.data.column import Request
from polyclinic.data.field import CellReader, Doubles, Field, fields_of, read_column
from polyclinic.data.identity import as_id
from polyclinic.data.units import Conversion, conversion
from polyclinic.errors import DataError

NAMES = ("measurement_concept_id", "measurement_source_value", "name")
VALUES = ("value_as_number", "value")
UNITS = ("unit", "unit_source_value", "unit_concept_id")
# OMOP writes 0 for what was not mapped to a concept.
UNMAPPED = frozenset({"", "0"})

Measured = tuple[int, Ints, Doubles]  # field, rows of the chunk, their numbers


def taken(cells: Cells, rows: Ints) -> Cells:
    """Some rows of a column."""
    if isinstance(cells, np.ndarray):
        return cells[rows]
    return cells if len(rows) == len(cells) else [cells[i] for i in rows.tolist()]


def texts(cells: Cells) -> list[str]:
    """The cells as ids are spelled, since concepts are ids: ``3004249.0`` is ``3004249``."""
    values = cells.tolist() if isinstance(cells, np.ndarray) else cells
    known = {v: as_id(v) for v in set(values)}
    return [known.get(v, "") for v in values]


class Layout:
    """What both layouts keep count of.

    Attributes:
        columns: that are read of each row.
        seen: places of the features the table has.
    """

    fields: tuple[Field, ...]
    columns: set[str]
    seen: set[int]

    def __init__(self) -> None:
        self.causes: Counter[str] = Counter()
        self.flaws: list[tuple[int, int, str]] = []

    def read(self, place: int, reader: CellReader, rows: Ints, cells: Cells) -> Measured:
        """The numbers of one field in some rows."""
        values, causes, aside = read_column(taken(cells, rows), reader)
        self.causes.update({c: n for c, n in causes.items() if c not in SET_ASIDE})
        self.flaws += [(int(rows[i]), place, reason) for i, reason in aside]
        return place, rows, values


class Wide(Layout):
    """One row per patient and moment."""

    def __init__(self, request: Request, stream: Stream) -> None:
        super().__init__()
        self.fields = fields_of(request)
        self.readers = [
            (place, f.column, f.reader(stream.decimal_comma))
            for place, f in enumerate(self.fields)
            if f.column in stream.header
        ]
        self.columns = {column for _, column, _ in self.readers}
        self.seen = {place for place, _, _ in self.readers}

    def measured(self, chunk: Chunk, rows: Ints) -> Iterator[Measured]:
        """The numbers of these rows, field by field."""
        for place, column, reader in self.readers:
            yield self.read(place, reader, rows, chunk.columns[column])


class Long(Layout):
    """One row per measurement."""

    def __init__(self, request: Request, stream: Stream) -> None:
        super().__init__()
        header = set(stream.header)
        self.names = [c for c in NAMES if c in header]
        self.units = [c for c in UNITS if c in header]
        self.value = next((c for c in VALUES if c in header), "")
        if not self.names or not self.value:
            raise DataError(
                expected=f"columns {' or '.join(NAMES)}, and {' or '.join(VALUES)}, in the long "
                f"table of '{request.name}'",
                got="not both",
                remedy="rename the table's columns, or leave out 'layout: omop'",
            )
        self.fields = fields_of(request, unit_by_row=bool(self.units))
        self.place_of = {as_id(f.column): i for i, f in enumerate(self.fields)}
        self.columns = {*self.names, *self.units, self.value}
        self.seen = set()
        self.request, self.decimal_comma = request, stream.decimal_comma
        self.readers: dict[tuple[int, Conversion], CellReader] = {}
        self.known: dict[tuple[int, tuple[str, ...]], Conversion | None] = {}

    def measured(self, chunk: Chunk, rows: Ints) -> Iterator[Measured]:
        """The numbers of these rows, field by field and unit by unit."""
        places = np.full(len(rows), -1, dtype=np.int64)
        for column in self.names:
            named = [self.place_of.get(c, -1) for c in texts(taken(chunk.columns[column], rows))]
            places = np.where(places < 0, np.array(named, np.int64), places)
        for place in np.unique(places[places >= 0]).tolist():
            self.seen.add(place)
            own = rows[places == place]
            for found, same in self._by_unit(place, chunk, own):
                if found is None:
                    self.flaws += [(int(row), place, UNKNOWN_UNIT) for row in same]
                else:
                    reader = self._reader(place, found)
                    yield self.read(place, reader, same, chunk.columns[self.value])

    def _by_unit(
        self, place: int, chunk: Chunk, rows: Ints
    ) -> list[tuple[Conversion | None, Ints]]:
        """Rows of one field by how their unit is converted."""
        asked = self.fields[place]
        if not self.units or not asked.rule.units:
            return [(asked.conversion, rows)]
        told = zip(*(texts(taken(chunk.columns[c], rows)) for c in self.units), strict=True)
        found = [self._conversion(place, texts) for texts in told]
        kinds = list(dict.fromkeys(found))
        return [(k, rows[np.array([f == k for f in found])]) for k in kinds]

    def _conversion(self, place: int, told: tuple[str, ...]) -> Conversion | None:
        """By the first of a row's units that the study knows, else by what the site declares."""
        if (place, told) not in self.known:
            asked = self.fields[place]
            stated = [t for t in told if t not in UNMAPPED]
            declared = self.request.source.field_units.get(asked.column, "")
            units = stated or [declared] * bool(declared)
            ways = [way for u in units if (way := conversion(asked.rule, u)) is not None]
            self.known[place, told] = ways[0] if ways else None
        return self.known[place, told]

    def _reader(self, place: int, way: Conversion) -> CellReader:
        key = (place, way)
        if key not in self.readers:
            asked = replace(self.fields[place], conversion=way)
            self.readers[key] = asked.reader(self.decimal_comma)
        return self.readers[key]
