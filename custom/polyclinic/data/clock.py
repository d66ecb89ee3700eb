"""When each row of a series was measured: milliseconds from the patient's start."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyclinic.data.chunk import Cells, Chunk, Stream
from polyclinic.data.column import Request
from polyclinic.data.stream import open_stream
from polyclinic.data.timeline import MS_OF_HOUR, SeriesRecipe, hour, moment
from polyclinic.errors import DataError

HOUR = "hour"
TIMES = ("time", "measurement_datetime")
DATES = ("measurement_date",)
UNKNOWN = np.iinfo(np.int64).max
Ints = npt.NDArray[np.int64]


class Clock:
    """Reads the time column of one table, and the column from which hours count.

    Raises:
        DataError: the table has no time column, or nothing has the start column.
    """

    def __init__(self, request: Request, recipe: SeriesRecipe, stream: Stream) -> None:
        self.recipe: SeriesRecipe = recipe
        self.decimal_comma = stream.decimal_comma
        self.column = self._column(request.name, stream.header)
        self.hours = self.column == HOUR
        self.zones: set[bool] = set()
        self.starts = np.full(len(request.ids), UNKNOWN)
        self.by_row = not self.hours and recipe.start in stream.header
        if self.hours:
            self.starts[:] = 0  # hours count from the start already
        elif recipe.start and not self.by_row:
            self._read_manifest(request)

    @property
    def columns(self) -> set[str]:
        """What the clock needs of each row."""
        return {self.column} | ({self.recipe.start} if self.by_row else set())

    def _column(self, name: str, header: tuple[str, ...]) -> str:
        places = (*TIMES, *(DATES if self.recipe.daily else ()))
        order: list[str] = [*places, HOUR] if self.recipe.start else [HOUR, *places]
        found = [column for column in order if column in header]
        if found:
            return found[0]
        raise DataError(
            expected=f"a column {' or '.join(order)} in the table of '{name}'",
            got="none of them",
            remedy="name the column of hours 'hour', or of ISO 8601 times 'time'",
        )

    def read(self, chunk: Chunk, patients: Ints) -> Ints:
        """Time of each row, ``UNKNOWN`` where it has none; starts are learnt on the way."""
        times = self._times(chunk.columns[self.column])
        own = patients >= 0
        if self.by_row:
            begun = self._times(chunk.columns[self.recipe.start])
            np.minimum.at(self.starts, patients[own], begun[own])
        elif not self.hours and not self.recipe.start:
            np.minimum.at(self.starts, patients[own], times[own])
        return times

    def _times(self, cells: Cells) -> Ints:
        if isinstance(cells, np.ndarray):
            # Numbers are hours; a number in a column of times has no agreed meaning.
            usable = np.abs(cells) < 1e9 if self.hours else np.zeros(len(cells), dtype=bool)
            found = np.full(len(cells), UNKNOWN)
            found[usable] = np.round(cells[usable] * MS_OF_HOUR).astype(np.int64)
            return found
        if self.hours:
            read = {c: hour(c, self.decimal_comma) for c in set(cells)}
            return np.array([UNKNOWN if (h := read[c]) is None else h for c in cells], np.int64)
        known = {c: moment(c, self.recipe.daily) for c in set(cells)}
        self.zones |= {zoned for time, zoned in known.values() if time is not None}
        when = {c: UNKNOWN if time is None else time for c, (time, _) in known.items()}
        return np.array([when[c] for c in cells], np.int64)

    def _read_manifest(self, request: Request) -> None:
        """Starts from the manifest.

        Raises:
            DataError: neither the table nor the manifest has the column.
        """
        stream = open_stream(Path(request.root) / request.manifest, (request.key,))
        if self.recipe.start not in stream.header:
            raise DataError(
                expected=f"the column '{self.recipe.start}' from which hours of "
                f"'{request.name}' count, in its table or in the manifest",
                got="neither",
                remedy="add it to the manifest, with ISO 8601 times",
            )
        order = {pseudonym: i for i, pseudonym in enumerate(request.ids)}
        for chunk in stream.chunks(request.key, [self.recipe.start]):
            patients = np.array([order.get(i, -1) for i in chunk.ids], np.int64)
            begun, own = self._times(chunk.columns[self.recipe.start]), patients >= 0
            np.minimum.at(self.starts, patients[own], begun[own])

    def require_one_zone(self, name: str) -> None:
        """Refuse a table whose times cannot be compared.

        Raises:
            DataError: some name their zone, some do not.
        """
        if len(self.zones) > 1:
            raise DataError(
                expected=f"times of '{name}' all with or all without a time zone",
                got="both",
                remedy="export them all in one way",
            )
