"""Kind ``series``: hourly numbers per patient with a mask, such as vital signs and results.

A study fixes the hours, the length of a step and what stands for several measurements of one step.
A step without a measurement is absent: zero in the input and False in the mask; the encoder carries
values forward, the data never do. Only what was measured is kept, so that a sparse series of many
steps costs little memory; it becomes dense by the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from polyclinic.data.cell import REMARKS
from polyclinic.data.column import Column, Reading, Request, require_agreement
from polyclinic.data.field import field_facts, require_possible
from polyclinic.data.series_table import Observations, read_observations
from polyclinic.data.steps import binned
from polyclinic.data.suppression import quartiles
from polyclinic.data.timeline import recipe_of
from polyclinic.data.units import idle_units
from polyclinic.data.vector import DISTINCTIVE, LARGEST, ROUNDING
from polyclinic.study import Modality


@dataclass(frozen=True)
class SeriesColumn:
    """Steps of P patients; patient i has the numbers from ``offsets[i]`` to ``offsets[i + 1]``.

    Attributes:
        values: what was measured; (n,) float32.
        cells: where it stands, step * F + feature; (n,) int64, rising within a patient.
        offsets: (P + 1,) int64.
        steps: T.
        features: F names.
        mean: the study's centre per feature, empty for the site's own.
        scale: the study's spread per feature, with ``mean``.
    """

    values: Tensor
    cells: Tensor
    offsets: Tensor
    steps: int
    features: tuple[str, ...]
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of one patient's inputs, float32."""
        return 4 * self.steps * len(self.features)

    @property
    def present(self) -> Tensor:
        """Patients with at least one value; (P,) bool."""
        return self.offsets.diff() > 0

    @property
    def owners(self) -> Tensor:
        """Patient of each value; (n,) int64."""
        return torch.repeat_interleave(self.offsets.diff())

    def prepared(self, train: Tensor) -> "SeriesColumn":
        """Values as (x - mean) / scale per feature.

        Guarantees:
          - Finite everywhere; a feature that is constant over ``train`` is zero there.
          - Patients outside ``train`` do not influence the statistics.
          - A feature that no training patient has is absent for all: it has no scale.
        """
        places = self.cells % len(self.features)
        if self.mean:
            mean = torch.tensor(self.mean, dtype=torch.float64)
            scale = torch.tensor(self.scale, dtype=torch.float64)
            known = torch.ones_like(mean, dtype=torch.bool)
        else:
            trained = torch.zeros(len(self.offsets) - 1, dtype=torch.bool)
            trained[train] = True
            own = trained[self.owners]
            mean, scale, known = statistics(self.values[own], places[own], len(self.features))
        scaled = (self.values.double() - mean[places]) / scale[places]
        kept = known[places] & (scaled.abs() <= LARGEST)
        counts = torch.bincount(self.owners[kept], minlength=len(self.offsets) - 1)
        return replace(
            self,
            values=scaled[kept].float(),
            cells=self.cells[kept],
            offsets=_offsets(counts),
            mean=(),
            scale=(),
        )

    def collate(
        self, rows: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, T, F) and fields (B, T, F)."""
        first, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        owners = torch.repeat_interleave(counts)
        within = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
        taken = first[owners] + within
        shape = (len(rows), self.steps * len(self.features))
        values, fields = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        values[owners, self.cells[taken]] = self.values[taken]
        fields[owners, self.cells[taken]] = True
        dense = (len(rows), self.steps, len(self.features))
        return values.reshape(dense), fields.reshape(dense)

    def summary(self, minimum: int) -> dict[str, int | float | str]:
        """Steps, and how many of a patient's cells hold a value; nothing of few patients."""
        counts = self.offsets.diff()
        counts = counts[counts > 0]
        told: dict[str, int | float | str] = {"steps": self.steps}
        found = quartiles(counts.double().tolist(), minimum)
        if found:
            cells = self.steps * len(self.features)
            told["measured"] = f"{float(counts.double().mean()) / cells:.1%} of steps × fields"
            told["values per patient"] = f"{found['q1']:g} to {found['q3']:g} (quartiles)"
        return told


def statistics(values: Tensor, places: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and whether any value is there, per feature; each (F,).

    A constant feature has scale 1.
    """
    count = torch.bincount(places, minlength=width)
    mean = torch.bincount(places, values.double(), width) / count.clamp(min=1)
    deviation = values.double() - mean[places]
    scale = (torch.bincount(places, deviation.square(), width) / count.clamp(min=1)).sqrt()
    constant = scale <= ROUNDING * mean.abs()
    return mean, torch.where(constant, 1.0, scale), count > 0


def read(request: Request) -> Reading:
    """The steps of a table, joined by patient id.

    Raises:
        StudyError: the recipe is not valid.
        DataRejected: the table as a whole is refused.
        DataError: other units than the study's, no times, none of the panel, or a feature whose
            values are mostly impossible.
    """
    require_agreement(request)
    modality = request.modality
    recipe = recipe_of(request.name, modality)
    found = read_observations(request, recipe)
    steps = binned(found, recipe, len(request.ids))
    column = SeriesColumn(
        torch.from_numpy(steps.values),
        torch.from_numpy(steps.cells),
        _offsets(torch.from_numpy(steps.counts)),
        recipe.steps,
        modality.features,
        modality.mean,
        modality.scale,
    )
    per_field = _patients_with(column)
    values = np.bincount(found.places, minlength=modality.width).tolist()
    require_possible(request.name, found.fields, values, found.aside)
    request.tick(len(request.ids))
    return Reading(
        column,
        found.entries,
        found.absent,
        found.missing,
        outside=found.outside,
        notes=_notes(request, found, column, steps.inside),
        facts=field_facts(request, found.fields, per_field, found.aside),
    )


def _offsets(counts: Tensor) -> Tensor:
    """Where each patient's values begin, and the end of all; (P + 1,) int64."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.to(torch.int64).cumsum(0)])


def _patients_with(column: SeriesColumn) -> list[int]:
    """Patients that have each feature at all."""
    width = len(column.features)
    pairs = np.unique((column.owners * width + column.cells % width).numpy())
    return [int(n) for n in np.bincount(pairs % width, minlength=width)]


def _notes(
    request: Request, found: Observations, column: SeriesColumn, inside: int
) -> tuple[str, ...]:
    """What a person should know."""
    notes = [f"{n} value(s) {REMARKS[remark]}" for remark, n in found.remarks.items()]
    outside = len(found.values) - inside
    if outside:
        notes.append(f"{outside} measurement(s) lie before or after the study's hours")
    same = twins(column)
    if same:
        notes.append(f"{same} patient(s) have exactly the values of another")
    return (*notes, *idle_units(request, {f.feature: f.column for f in found.fields}))


def twins(column: SeriesColumn) -> int:
    """Patients whose series equals an earlier patient's: one person under two ids, most likely.

    Only series with several fractions count; heart rates and scores repeat by nature.
    """
    seen: set[bytes] = set()
    rows = 0
    fractions = torch.bincount(
        column.owners, (column.values.frac() != 0).double(), len(column.offsets) - 1
    )
    for patient in torch.nonzero(fractions >= DISTINCTIVE).flatten().tolist():
        own = slice(int(column.offsets[patient]), int(column.offsets[patient + 1]))
        seen.add(column.values[own].numpy().tobytes() + column.cells[own].numpy().tobytes())
        rows += 1
    return rows - len(seen)


def absent(patients: int, modality: Modality) -> SeriesColumn:
    """A column that no patient has."""
    none = torch.empty(0, dtype=torch.int64)
    steps = recipe_of("series", modality).steps
    offsets = torch.zeros(patients + 1, dtype=torch.int64)
    return SeriesColumn(torch.empty(0), none, offsets, steps, modality.features)


def join(columns: Sequence[Column]) -> SeriesColumn:
    """The columns of several sites, one below the other."""
    parts = [cast(SeriesColumn, c) for c in columns]
    return replace(
        parts[0],
        values=torch.cat([p.values for p in parts]),
        cells=torch.cat([p.cells for p in parts]),
        offsets=_offsets(torch.cat([p.offsets.diff() for p in parts])),
    )
