"""Measurements over time from a table: whose, when, what, how much.

Plain layout: one row per patient and moment, columns ``hour`` or ``time`` and the panel's. Layout
``omop``: one row per measurement, as the MEASUREMENT table of the OMOP common data model has it,
or a plainer long table with the columns ``hour`` or ``time``, ``name``, ``value`` and ``unit``.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyclinic.data.cell import REMARKS
from polyclinic.data.chunk import Chunk
from polyclinic.data.clock import UNKNOWN, Clock, Ints
from polyclinic.data.column import Request
from polyclinic.data.field import Doubles, Field
from polyclinic.data.quarantine import Entry
from polyclinic.data.series_layout import Long, Wide
from polyclinic.data.stream import open_stream
from polyclinic.data.timeline import SeriesRecipe
from polyclinic.errors import DataError, StudyError

# Lines of one reason that are listed; the rest is a number.
LISTED = 1000


@dataclass(frozen=True)
class Observations:
    """Every number of the panel that a patient of the cohort has a time for.

    Attributes:
        fields: the panel, in its order.
        patients: row of the cohort; (n,) int64.
        times: milliseconds since the patient's start; (n,) int64.
        places: of the feature in the panel; (n,) int64.
        values: in the study's unit; (n,) float32, finite.
        missing: features the table lacks.
        outside: rows of patients that are not in the manifest.
        aside: values that were set aside, by place.
    """

    fields: tuple[Field, ...]
    patients: Ints = field(repr=False)
    times: Ints = field(repr=False)
    places: Ints = field(repr=False)
    values: npt.NDArray[np.float32] = field(repr=False)
    entries: tuple[Entry, ...] = ()
    absent: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    outside: int = 0
    aside: Counter[int] = field(default_factory=Counter)


def read_observations(request: Request, recipe: SeriesRecipe) -> Observations:
    """The measurements of a series.

    Raises:
        StudyError: hours count from the patient column.
        DataRejected: the table as a whole is refused.
        DataError: no time, value or panel columns, units that differ, or no time that can be read.
    """
    if recipe.start == request.key:
        raise StudyError(
            expected=f"a column of times from which hours of '{request.name}' count",
            got="the patient column",
            remedy="correct 'start' in the recipe",
        )
    keys = (request.key, "person_id") if request.source.layout == "omop" else (request.key,)
    stream = open_stream(Path(request.root) / request.source.table, keys)
    key = request.key if request.key in stream.header else keys[-1]
    layout = (Long if request.source.layout == "omop" else Wide)(request, stream)
    gathered = _Gathered(request, Clock(request, recipe, stream), layout)
    for chunk in stream.chunks(key, sorted(layout.columns | gathered.clock.columns)):
        gathered.take(chunk)
    return gathered.observations()


class _Gathered:
    """The measurements of one chunk after the other."""

    def __init__(self, request: Request, clock: Clock, layout: Wide | Long) -> None:
        self.request, self.clock, self.layout = request, clock, layout
        self.order = {pseudonym: i for i, pseudonym in enumerate(request.ids)}
        self.parts: list[tuple[Ints, Ints, Ints, Doubles]] = []
        self.listed: list[Entry] = []
        self.reasons: Counter[str] = Counter()
        self.aside: Counter[int] = Counter()
        self.outside = self.timed = 0

    def take(self, chunk: Chunk) -> None:
        """Read the rows of a chunk."""
        patients = np.array([self.order.get(i, -1) for i in chunk.ids], np.int64)
        for line in chunk.ragged:
            self._list("ragged_row", line)
        for row in np.flatnonzero(patients < 0).tolist():
            if chunk.ids[row]:
                self.outside += 1
                self.request.stranger(chunk.ids[row])
            else:
                self._list("no_patient_id", chunk.lines[row])
        times = self.clock.read(chunk, patients)
        for row in np.flatnonzero((patients >= 0) & (times == UNKNOWN)).tolist():
            self._list("no_time", chunk.lines[row], patients[row])
        rows = np.flatnonzero((patients >= 0) & (times != UNKNOWN))
        self.timed += len(rows)
        for place, own, values in self.layout.measured(chunk, rows):
            kept = ~np.isnan(values)
            own, values = own[kept], values[kept]
            self.parts.append((patients[own], times[own], np.full(len(own), place), values))
        for row, place, reason in self.layout.flaws:
            self._list(reason, chunk.lines[row], patients[row])
            self.aside[place] += 1
        self.layout.flaws.clear()

    def _list(self, reason: str, line: int, patient: int = -1) -> None:
        """One row or value that is left out; it costs the patient no more than that."""
        self.reasons[reason] += 1
        if self.reasons[reason] <= LISTED:
            owner = self.request.ids[patient] if patient >= 0 else ""
            entry = Entry(reason, self.request.name, f"line {line}", owner, partial=True)
            self.listed.append(entry)

    def observations(self) -> Observations:
        """Everything that was taken, in milliseconds from each patient's start."""
        self.clock.require_one_zone(self.request.name)
        self._require_content()
        empty = np.empty(0, np.int64)
        parts = self.parts or [(empty, empty, empty, np.empty(0))]
        patients, times, places, values = (np.concatenate(c) for c in zip(*parts, strict=True))
        starts = self.clock.starts[patients]
        begun = starts != UNKNOWN
        self.reasons["no_time"] += int((~begun).sum())
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        causes = self.layout.causes
        causes["infinite"] += int(np.isinf(narrow[begun]).sum())
        kept = begun & np.isfinite(narrow)
        counts = {c: n for c, n in sorted(causes.items()) if n}
        seen, fields = self.layout.seen, self.layout.fields
        return Observations(
            fields,
            patients[kept],
            times[kept] - starts[kept],
            places[kept],
            narrow[kept],
            self._entries(),
            {c: n for c, n in counts.items() if c not in REMARKS},
            {c: n for c, n in counts.items() if c in REMARKS},
            tuple(f.feature for i, f in enumerate(fields) if i not in seen),
            self.outside,
            self.aside,
        )

    def _entries(self) -> tuple[Entry, ...]:
        """The lines that are listed, and how many more there are of each reason."""
        listed = Counter(e.reason for e in self.listed)
        more = {r: n - listed[r] for r, n in sorted(self.reasons.items()) if n > listed[r]}
        name = self.request.name
        rest = [Entry(r, name, "lines that are not listed", "", True, n) for r, n in more.items()]
        return (*self.listed, *rest)

    def _require_content(self) -> None:
        """Refuse a table without anything of the panel, or without times.

        Raises:
            DataError: naming what is not there.
        """
        name, fields = self.request.name, self.layout.fields
        if not self.layout.seen and (self.timed or isinstance(self.layout, Wide)):
            raise DataError(
                expected=f"columns or concepts of the panel of modality '{name}'",
                got=f"none of its {len(fields)}",
                remedy="name them in the study's fields as the table names them",
            )
        if not self.timed and self.reasons["no_time"]:
            raise DataError(
                expected=f"times of '{name}' as hours, or in ISO 8601 (2026-01-31T08:30)",
                got="none that can be read",
                remedy="export the times in one of these forms",
            )
