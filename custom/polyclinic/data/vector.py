"""Kind ``vector``: one row of numbers per patient, with a presence mask per field.

A value that is blank, no number or infinite is absent: zero in the input and False in the mask; so
is one that the study calls impossible, which is listed besides. How a cell becomes a number is the
study's rule for its field (``polyclinic.data.cell``), the same at every site.
Values are standardised by the site's own training patients over present fields only, so the
statistics never leave the site; a study that needs one scale everywhere fixes mean and scale.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from polyclinic.data.cell import REMARKS
from polyclinic.data.column import Column, Reading, Request, require_agreement
from polyclinic.data.field import Field, field_facts, fields_of, require_possible
from polyclinic.data.quarantine import Entry
from polyclinic.data.units import idle_units
from polyclinic.data.values import ValueTable, read_values
from polyclinic.errors import DataError
from polyclinic.study import Modality

# A spread below this share of the mean is rounding of float32, not variation.
ROUNDING = 1e-7
# Standardised values beyond this are typing errors; they would overflow a model's float32.
LARGEST = 1e6
# Numbers with a fraction that a row needs before its repetition is no coincidence.
DISTINCTIVE = 8


@dataclass(frozen=True)
class VectorColumn:
    """Numbers of P patients.

    Attributes:
        values: (P, F) float32, zero where absent.
        fields: (P, F) bool, which values are there.
        mean: the study's centre per feature, empty for the site's own.
        scale: the study's spread per feature, with ``mean``.
    """

    values: Tensor
    fields: Tensor
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def present(self) -> Tensor:
        """Patients with at least one value; (P,) bool."""
        return self.fields.any(dim=1)

    def prepared(self, train: Tensor) -> "VectorColumn":
        """Values as (x - mean) / scale.

        Guarantees:
          - Finite everywhere, zero where absent.
          - A feature that is constant over ``train`` is zero there.
          - Rows outside ``train`` do not influence the statistics.
          - A feature that no training patient has is absent for all: it has no scale.
        """
        if self.mean:
            mean = torch.tensor(self.mean, dtype=torch.float64)
            scale = torch.tensor(self.scale, dtype=torch.float64)
            known = torch.ones_like(mean, dtype=torch.bool)
        else:
            mean, scale, known = statistics(self.values[train], self.fields[train])
        scaled = (self.values.double() - mean) / scale  # (P, F)
        fields = self.fields & known & (scaled.abs() <= LARGEST)
        return VectorColumn(torch.where(fields, scaled, 0.0).float(), fields)

    def collate(
        self, rows: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, F) and fields (B, F)."""
        return self.values.index_select(0, rows), self.fields.index_select(0, rows)


@dataclass(frozen=True)
class Joined:
    """Which row of a table is whose.

    Attributes:
        places: row of the table by row of the cohort.
        duplicates: rows beyond the first of a patient.
        outside: rows of patients that are not in the manifest.
    """

    places: dict[int, int]
    entries: tuple[Entry, ...] = ()
    duplicates: int = 0
    outside: int = 0


def statistics(values: Tensor, fields: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and whether any value is there, per feature over present values; each (F,).

    A constant feature has scale 1.
    """
    count = fields.sum(dim=0)  # (F,)
    there = torch.where(fields, values.double(), 0.0)
    mean = there.sum(dim=0) / count.clamp(min=1)
    deviation = torch.where(fields, there - mean, 0.0)
    scale = (deviation.square().sum(dim=0) / count.clamp(min=1)).sqrt()
    constant = scale <= ROUNDING * mean.abs()
    return mean, torch.where(constant, 1.0, scale), count > 0


def read(request: Request) -> Reading:
    """The column of a table, or of DICOM headers, in the order of patients and of the panel.

    Raises:
        DataRejected: the table as a whole is refused.
        DataError: other units than the study's, none of the panel's columns, or one whose values
            are mostly impossible.
    """
    require_agreement(request)
    fields = fields_of(request)
    if request.source.folder:
        # Only a folder of headers needs the DICOM library.
        from polyclinic.data.header_table import read_headers

        return _reading(request, fields, *read_headers(request, fields))
    table = read_values(Path(request.root) / request.source.table, request.key, fields)
    if len(table.missing) == len(fields):
        raise DataError(
            expected=f"columns of the panel of modality '{request.name}'",
            got=f"none of its {len(fields)}",
            remedy="rename the table's columns as the study's panel names them",
        )
    request.tick(len(request.ids))
    return _reading(request, fields, table, joined(table, request))


def _reading(request: Request, fields: Sequence[Field], table: ValueTable, rows: Joined) -> Reading:
    """The column of the rows that belong to patients, with what was set aside."""
    values = torch.full((len(request.ids), len(fields)), float("nan"))
    if rows.places:
        into = torch.tensor(list(rows.places), dtype=torch.int64)
        values[into] = torch.from_numpy(table.values[np.array(list(rows.places.values()))])
    there = ~values.isnan()
    modality = request.modality
    column = VectorColumn(values.nan_to_num(0.0), there, modality.mean, modality.scale)
    flaws, aside = _set_aside(table, rows, request)
    patients = there.sum(dim=0).tolist()
    facts = field_facts(request, fields, patients, aside)
    require_possible(request.name, fields, patients, aside)
    return Reading(
        column,
        (*rows.entries, *flaws),
        table.absent,
        table.missing,
        rows.duplicates,
        rows.outside,
        (*_notes(table, column), *idle_units(request, {f.feature: f.column for f in fields})),
        facts,
    )


def _set_aside(
    table: ValueTable, rows: Joined, request: Request
) -> tuple[list[Entry], Counter[int]]:
    """An entry for each value of a patient that was set aside, and their number by field."""
    patient_of = {row: patient for patient, row in rows.places.items()}
    own = [flaw for flaw in table.flaws if flaw.row in patient_of]
    entries = [
        Entry(
            flaw.reason,
            request.name,
            table.reference(flaw.row),
            request.ids[patient_of[flaw.row]],
            partial=True,
        )
        for flaw in own
    ]
    return entries, Counter(flaw.place for flaw in own)


def _notes(table: ValueTable, column: VectorColumn) -> tuple[str, ...]:
    """What a person should know."""
    same = twins(column)
    told = [f"{n} value(s) {REMARKS[remark]}" for remark, n in table.remarks.items()]
    return (*told, *([f"{same} patient(s) have exactly the values of another"] if same else []))


def twins(column: VectorColumn) -> int:
    """Patients whose values equal an earlier patient's: one person under two ids, most likely.

    Only rows with several fractions count; calls, flags and counts repeat by nature.
    """
    fractions = (column.values.frac() != 0).sum(dim=1) >= DISTINCTIVE
    rows = column.values[fractions].numpy()
    return len(rows) - len({row.tobytes() for row in rows})


def joined(table: ValueTable, request: Request) -> Joined:
    """The rows of a table by patient, and what was left out."""
    order = {pseudonym: i for i, pseudonym in enumerate(request.ids)}
    entries = [Entry("ragged_row", request.name, f"line {line}") for line in table.ragged]
    places: dict[int, int] = {}
    seen: set[str] = set()
    duplicates = outside = 0
    for i, (pseudonym, line) in enumerate(zip(table.ids, table.lines, strict=True)):
        if not pseudonym:
            entries.append(Entry("no_patient_id", request.name, f"line {line}"))
        elif pseudonym in seen:
            duplicates += 1
        elif pseudonym in order:
            places[order[pseudonym]] = i
        else:
            outside += 1
            request.stranger(pseudonym)
        seen.add(pseudonym)
    return Joined(places, tuple(entries), duplicates, outside)


def absent(patients: int, modality: Modality) -> VectorColumn:
    """A column that no patient has."""
    shape = (patients, modality.width)
    return VectorColumn(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))


def join(columns: Sequence[Column]) -> VectorColumn:
    """The columns of several sites, one below the other."""
    parts = [cast(VectorColumn, c) for c in columns]
    return VectorColumn(torch.cat([p.values for p in parts]), torch.cat([p.fields for p in parts]))
