"""The manifest of a cohort: one row per patient with label and, if the site fixes it, split."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.data.batch import SplitName
from polyclinic.data.identity import as_id, twin_key
from polyclinic.data.parquet import faults, read_parquet, texts
from polyclinic.data.quarantine import Entry
from polyclinic.data.table import PARQUET, parse, read_bytes
from polyclinic.errors import DataError, StudyError
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
        leaks: patients that stand in more than one split, twins counted as one.
        rows: rows that were looked at.
        twins: ids that differ from another only in case, or as numbers only in their writing.
        drawn: whether the study draws the split, which may part twins.
    """

    patients: tuple[Patient, ...]
    entries: tuple[Entry, ...] = ()
    duplicates: int = 0
    leaks: int = 0
    rows: int = 0
    twins: int = 0
    drawn: bool = False

    @property
    def parts_twins(self) -> bool:
        """Whether one person may be trained on under one id and tested under another."""
        return self.drawn and self.twins > 0

    def require_distinct(self) -> None:
        """Refuse a manifest that lists a patient twice, or in a drawn split under two ids.

        Raises:
            DataError: without counts, which 'polyclinic data check' shows.
        """
        if self.duplicates or self.leaks:
            raise DataError(
                expected="every patient once, in one split",
                got="repeated rows",
                remedy="keep one row per patient in the manifest",
            )
        if self.parts_twins:
            raise DataError(
                expected="ids that differ in more than case or leading zeros",
                got="ids that do not",
                remedy="give every patient one id, or fix the split in the manifest",
            )


def read_manifest(source: CohortSource, study: Study) -> Manifest:
    """The manifest of a cohort as the study reads it.

    Raises:
        StudyError: the study asks for the patient column as its label.
        DataRejected: the file as a whole is refused.
        DataError: a needed column is absent.
    """
    path = Path(source.root) / source.manifest
    if study.task.label == source.patient_column:
        raise label_is_patient()
    header, rows, ragged = _rows(path, source.patient_column, study.task.label)
    needed = [study.task.label] + (["split"] if study.split.source == "manifest" else [])
    for column in needed:
        if column not in header:
            raise DataError(
                expected=f"a column '{column}' in the manifest",
                got=f"{len(header)} other column(s)",
                remedy="add the column, or correct the name in the study",
            )
    return _assemble(rows, ragged, source.patient_column, study)


def label_is_patient() -> StudyError:
    """The error for a study whose classes would be patients."""
    return StudyError(
        expected="a label that is not the patient",
        got="the patient column as label",
        remedy="name the outcome's column in the study",
    )


def _rows(
    path: Path, key: str, label: str
) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]], int]:
    """Header, rows by column name with their line, and how many rows were ragged."""
    rows, ragged = [], 0
    if path.suffix in PARQUET:
        stored = read_parquet(path, key, {label, "split"})
        if label in stored.header and label not in stored.columns:
            raise label_is_patient()  # the table's index, which stands for the patient column
        with faults(path):
            cells = {n: texts(c) for n, c in stored.columns.items()} | {key: stored.ids}
        for i in range(len(stored.ids)):
            rows.append((i + 2, {n: column[i] for n, column in cells.items()}))
        return (*stored.header, key), rows, 0
    table = parse(read_bytes(path), (key,))
    for line, row in table.rows():
        if row is None:
            ragged += 1
        else:
            named = dict(zip(table.header, row, strict=True))
            rows.append((line, {**named, key: as_id(named[key])}))
    return table.header, rows, ragged


def _assemble(
    rows: list[tuple[int, dict[str, str]]], ragged: int, key: str, study: Study
) -> Manifest:
    """Patients sorted by id, so that nothing downstream depends on the order of rows."""
    classes = _places(study)
    entries = [Entry("ragged_row", reference="manifest")] * ragged
    patients: dict[str, Patient] = {}
    splits: dict[str, set[str]] = {}
    seen: Counter[str] = Counter()
    for line, row in rows:
        pseudonym = row[key]
        split = SPLITS.get(row.get("split", "").lower())
        if pseudonym:
            seen[pseudonym] += 1
            splits.setdefault(twin_key(pseudonym), set()).add(split or "")
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
        twins=len(seen) - len(splits),
        drawn=study.split.source == "random",
    )


def _places(study: Study) -> dict[str, int]:
    """Class index by label, spelled as labels are read."""
    return {as_id(c): i for i, c in enumerate(study.task.classes)}


def as_class(cell: str, classes: Mapping[str, int]) -> str:
    """The class a label cell means: its own text, else a whole number without its point."""
    cell = as_id(cell)
    if cell in classes:
        return cell
    try:
        return as_id(float(cell))
    except (ValueError, OverflowError):
        return cell


def _reason(row: Mapping[str, str], pseudonym: str, split: str | None, study: Study) -> str:
    """Why a row cannot be used, or ""."""
    classes = _places(study)
    if not pseudonym:
        return "no_patient_id"
    if as_class(row[study.task.label], classes) not in classes:
        return "bad_label"
    if study.split.source == "manifest" and split is None:
        return "bad_split"
    return ""
