"""The manifest of a cohort: a row per patient, or per record of one, with label and split."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from polyclinic.data.batch import SplitName
from polyclinic.data.identity import as_id, twin_key
from polyclinic.data.labels import Answer, LabelCells
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
    """One row of the manifest: a patient, or one record of a patient.

    Attributes:
        pseudonym: the patient id; never printed nor sent.
        label: class index; of a multi-label task 1, 0 or -1 (unknown) per label.
        split: as the manifest says; "" when the study draws it.
        record: id of the record where a patient has several, never printed nor sent; else "".
    """

    pseudonym: str = field(repr=False)
    label: Answer
    split: SplitName | None = None
    line: int = 0
    record: str = field(default="", repr=False)

    @property
    def key(self) -> str:
        """What the row has in the tables: the record's id, else the patient's."""
        return self.record or self.pseudonym


@dataclass(frozen=True)
class Manifest:
    """The usable rows, sorted by id, and what was found on the way.

    Attributes:
        duplicates: rows beyond the first of a patient, or of a record.
        leaks: patients that stand in more than one split, twins counted as one.
        rows: rows that were looked at.
        people: patients that were looked at; a row without an id counts as one.
        twins: ids that differ from another only in case, or as numbers only in their writing.
        drawn: whether the study draws the split, which may part twins.
        aside: ids of patients, or of records, whose row was set aside; never printed nor sent.
    """

    patients: tuple[Patient, ...]
    entries: tuple[Entry, ...] = ()
    duplicates: int = 0
    leaks: int = 0
    rows: int = 0
    people: int = 0
    twins: int = 0
    drawn: bool = False
    aside: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def owners(self) -> Tensor:
        """Number of the patient of each row, from 0 in the order of ids; (P,) int64."""
        numbers: dict[str, int] = {}
        each = [numbers.setdefault(p.pseudonym, len(numbers)) for p in self.patients]
        return torch.tensor(each, dtype=torch.int64)

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
                expected="every patient (or record) once, and every patient in one split",
                got="repeated rows",
                remedy="keep one row per patient in the manifest, or name its record_column",
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
        StudyError: the study asks for the column of patients or records as its label.
        DataRejected: the file as a whole is refused.
        DataError: a needed column is absent.
    """
    path = Path(source.root) / source.manifest
    if {source.patient_column, source.record_column} & set(study.task.columns):
        raise label_is_patient()
    record = {source.record_column} - {""}
    header, rows, ragged = _rows(path, source.patient_column, record, study.task.columns)
    needed = [*study.task.columns, *(["split"] if study.split.source == "manifest" else [])]
    for column in (*needed, *record):
        if column not in header:
            remedy = "add the column, or correct the name in the study"
            raise DataError(
                expected=f"a column '{column}' in the manifest",
                got=f"{len(header)} other column(s)",
                remedy="correct record_column in polyclinic.yaml" if column in record else remedy,
            )
    return _assemble(rows, ragged, source, study)


def label_is_patient() -> StudyError:
    """The error for a study whose classes would be patients."""
    return StudyError(
        expected="a label that is not the patient",
        got="the patient column as label",
        remedy="name the outcome's column in the study",
    )


def _rows(
    path: Path, key: str, record: set[str], labels: tuple[str, ...]
) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]], int]:
    """Header, rows by column name with their line, and how many rows were ragged."""
    rows, ragged = [], 0
    if path.suffix in PARQUET:
        stored = read_parquet(path, key, {*labels, *record, "split"})
        if any(c in stored.header and c not in stored.columns for c in labels):
            raise label_is_patient()  # the table's index, which stands for the patient column
        with faults(path):
            cells = {n: texts(c) for n, c in stored.columns.items()} | {key: stored.ids}
        for i in range(len(stored.ids)):
            rows.append((i + 2, {n: column[i] for n, column in cells.items()}))
        return (*stored.header, key), rows, 0
    table = parse(read_bytes(path), (key,))
    ids = {key} | (record & set(table.header))
    for line, row in table.rows():
        if row is None:
            ragged += 1
        else:
            named = dict(zip(table.header, row, strict=True))
            rows.append((line, named | {c: as_id(named[c]) for c in ids}))
    return table.header, rows, ragged


def _assemble(
    rows: list[tuple[int, dict[str, str]]], ragged: int, source: CohortSource, study: Study
) -> Manifest:
    """Rows sorted by id, so that nothing downstream depends on their order in the file."""
    read = _Read(source, study, entries=[Entry("ragged_row", reference="manifest")] * ragged)
    for line, row in rows:
        read.add(line, row)
    count = len(rows) + ragged
    nameless = count - sum(read.seen.values())
    return Manifest(
        patients=tuple(sorted(read.kept.values(), key=lambda p: (p.pseudonym, p.key))),
        entries=tuple(read.entries),
        duplicates=read.repeats,
        leaks=sum(1 for s in read.splits.values() if len(s) > 1),
        rows=count,
        people=len(read.seen) + nameless if source.record_column else count,
        twins=len(read.seen) - len(read.splits),
        drawn=study.split.source == "random",
        aside=frozenset(read.keys - set(read.kept)),
    )


@dataclass
class _Read:
    """What reading one row after the other adds up to.

    Attributes:
        kept: the usable rows, by record or else patient.
        splits: what the rows of a person say, by a key that twins share.
        seen: rows by patient.
    """

    source: CohortSource
    study: Study
    entries: list[Entry]
    kept: dict[str, Patient] = field(default_factory=dict)
    splits: dict[str, set[str]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    repeats: int = 0
    cells: LabelCells = field(init=False)
    fixed: bool = field(init=False)

    def __post_init__(self) -> None:
        self.cells = LabelCells.of(self.study.task)
        self.fixed = self.study.split.source == "manifest"

    def add(self, line: int, row: Mapping[str, str]) -> None:
        """Take a row, or set it aside."""
        pseudonym = row[self.source.patient_column]
        record = row[self.source.record_column] if self.source.record_column else ""
        split = SPLITS.get(row.get("split", "").lower())
        if pseudonym:
            self.seen[pseudonym] += 1
            self.splits.setdefault(twin_key(pseudonym), set()).add(split or "")
        key = record if self.source.record_column else pseudonym
        if pseudonym and key:
            self.repeats += key in self.keys
            self.keys.add(key)
        answer, clear = self.cells.read(row)
        reason = ""
        if not pseudonym or not key:
            reason = "no_record_id" if pseudonym else "no_patient_id"
        elif answer is None:
            reason = "bad_label"
        elif self.fixed and split is None:
            reason = "bad_split"
        elif not clear:  # one label is lost, the rest stays
            self.entries.append(_entry("bad_label", line, pseudonym, partial=True))
        if reason:
            self.entries.append(_entry(reason, line, pseudonym))
        elif answer is not None:
            kept = split if self.fixed else None
            self.kept.setdefault(key, Patient(pseudonym, answer, kept, line, record))


def _entry(reason: str, line: int, pseudonym: str, *, partial: bool = False) -> Entry:
    return Entry(reason, "", f"manifest line {line}", pseudonym, partial)
