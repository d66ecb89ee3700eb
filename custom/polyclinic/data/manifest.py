"""The manifest of a cohort: one row per patient with label and, if the site fixes it, split."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from polyclinic.data.batch import SplitName
from polyclinic.data.quarantine import Entry
from polyclinic.data.table import PARQUET, parse, read_bytes, require_distinct
from polyclinic.data.values import as_id, parquet_faults, parquet_key
from polyclinic.errors import DataError
from polyclinic.settings import CohortSource
from polyclinic.study import Study

SPLITS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Patient:
    """One row of the manifest.

    Attributes:
        pseudonym: the patient id; never printed nor sent.
        label: class index.
        split: as the manifest says; "" when the study draws it.
    """

    pseudonym: str = field(repr=False)
    label: int
    split: SplitName | None = None
    line: int = 0


@dataclass(frozen=True)
class Manifest:
    """The usable patients, sorted by id, and what was found on the way.

    Attributes:
        duplicates: rows beyond the first of a patient.
        leaks: patients that stand in more than one split.
        rows: rows that were looked at.
    """

    patients: tuple[Patient, ...]
    entries: tuple[Entry, ...] = ()
    duplicates: int = 0
    leaks: int = 0
    rows: int = 0

    def require_distinct(self) -> None:
        """Refuse a manifest that lists a patient twice.

        Raises:
            DataError: with the counts; no id is shown.
        """
        if self.duplicates or self.leaks:
            raise DataError(
                expected="every patient once, in one split",
                got=f"{self.duplicates} repeated row(s), {self.leaks} patient(s) in two splits",
                remedy="keep one row per patient in the manifest",
            )


def read_manifest(source: CohortSource, study: Study) -> Manifest:
    """The manifest of a cohort as the study reads it.

    Raises:
        DataRejected: the file as a whole is refused.
        DataError: a needed column is absent.
    """
    path = Path(source.root) / source.manifest
    header, rows, ragged = _rows(path, source.patient_column)
    needed = [study.task.label] + (["split"] if study.split.source == "manifest" else [])
    for column in needed:
        if column not in header:
            raise DataError(
                expected=f"a column '{column}' in the manifest",
                got=f"{len(header)} other column(s)",
                remedy="add the column, or correct the name in the study",
            )
    return _assemble(rows, ragged, source.patient_column, study)


def _rows(path: Path, key: str) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]], int]:
    """Header, rows by column name with their line, and how many rows were ragged."""
    if path.suffix in PARQUET:
        return _parquet_rows(path, key)
    table = parse(read_bytes(path), (key,))
    rows, ragged = [], 0
    for line, cells in table.rows():
        if cells is None:
            ragged += 1
        else:
            rows.append((line, dict(zip(table.header, cells, strict=True))))
    return table.header, rows, ragged


def _parquet_rows(
    path: Path, key: str
) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]], int]:
    rows = []
    with parquet_faults(path):
        schema = pq.read_schema(path)
        require_distinct(tuple(schema.names), path)
        at = parquet_key(schema, path, key)
        for i, row in enumerate(pq.read_table(path, use_threads=False).to_pylist()):
            cells = {str(n): as_id(v) for n, v in row.items()}
            rows.append((i + 2, {**cells, key: cells[at]}))
    return (*schema.names, key), rows, 0


def _assemble(
    rows: list[tuple[int, dict[str, str]]], ragged: int, key: str, study: Study
) -> Manifest:
    """Patients sorted by id, so that nothing downstream depends on the order of rows."""
    classes = {c: i for i, c in enumerate(study.task.classes)}
    entries = [Entry("ragged_row", reference="manifest")] * ragged
    patients: dict[str, Patient] = {}
    splits: dict[str, set[str]] = {}
    seen: Counter[str] = Counter()
    for line, row in rows:
        pseudonym = row[key]
        split = SPLITS.get(row.get("split", "").lower())
        if pseudonym:
            seen[pseudonym] += 1
            splits.setdefault(pseudonym, set()).add(split or "")
        reason = _reason(row, pseudonym, split, study)
        if reason:
            reference = f"manifest line {line}"
            entries.append(Entry(reason, reference=reference, patient=pseudonym))
            continue
        kept = split if study.split.source == "manifest" else None
        label = classes[as_class(row[study.task.label], classes)]
        patients.setdefault(pseudonym, Patient(pseudonym, label, kept, line))
    return Manifest(
        patients=tuple(patients[p] for p in sorted(patients)),
        entries=tuple(entries),
        duplicates=sum(n - 1 for n in seen.values()),
        leaks=sum(1 for s in splits.values() if len(s) > 1),
        rows=len(rows) + ragged,
    )


def as_class(cell: str, classes: Mapping[str, int]) -> str:
    """The class a label cell means: its own text, else a whole number without its point."""
    if cell in classes:
        return cell
    try:
        return as_id(float(cell))
    except (ValueError, OverflowError):
        return cell


def _reason(row: Mapping[str, str], pseudonym: str, split: str | None, study: Study) -> str:
    """Why a row cannot be used, or ""."""
    classes = {c: i for i, c in enumerate(study.task.classes)}
    if not pseudonym:
        return "no_patient_id"
    if as_class(row[study.task.label], classes) not in classes:
        return "bad_label"
    if study.split.source == "manifest" and split is None:
        return "bad_split"
    return ""
