"""``polyclinic data import``: a folder of files becomes a site folder, again and again.

Each run takes over what is new or has changed, writes every table anew, and leaves the settings
that a person has changed in ``polyclinic.yaml`` alone.
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.data.quarantine import Entry, QuarantineReport
from polyclinic.errors import DataError
from polyclinic.importing.claim import MANIFEST, claimed, require_apart
from polyclinic.importing.copies import Copied, Task, copy_files
from polyclinic.importing.folder import Found, matcher, walk
from polyclinic.importing.journal import Journal, Line
from polyclinic.importing.people import People
from polyclinic.importing.plan import ImportPlan, ModalityRule, TableRule
from polyclinic.importing.settings_file import is_series, read_settings, write_settings
from polyclinic.importing.sheet import RECORD, Sheet, clean_table
from polyclinic.storage import remove_leftovers, write_atomic

Advance = Callable[[int], None]


@dataclass
class Imported:
    """What an import did, in counts; no name, no id and no value of a file is in it.

    Attributes:
        twins: pseudonyms beyond the first of ids that differ only in case or leading zeros.
        reached: by modality, the patients of the labels for whom it has a row or file.
    """

    files: dict[str, Copied] = field(default_factory=dict)
    tables: dict[str, Sheet] = field(default_factory=dict)
    patients: int = 0
    twins: int = 0
    reached: dict[str, int] = field(default_factory=dict)

    @property
    def entries(self) -> list[Entry]:
        """Everything that was left out."""
        rows = [e for s in self.tables.values() for e in s.entries]
        return rows + [e for c in self.files.values() for e in c.entries]

    @property
    def lost(self) -> float:
        """Share of files and rows that were left out, in [0, 1]."""
        seen = sum(c.seen for c in self.files.values()) + sum(s.rows for s in self.tables.values())
        return len(self.entries) / seen if seen else 0.0

    def ok(self, plan: ImportPlan) -> bool:
        """Whether all went as the plan says: losses within bounds, no column or modality missing.

        An import without a single patient, or with a modality that reaches none, is never as
        planned.
        """
        dropped = any(s.dropped for s in self.tables.values())
        empty = any(c.seen == len(c.entries) for c in self.files.values())
        within = self.lost <= plan.max_loss_fraction
        told_apart = plan.twins != "refuse" or not self.twins
        reaches = self.patients > 0 and all(self.reached.values())
        return within and told_apart and not dropped and not empty and reaches


def import_folder(
    folder: Path, out: Path, plan: ImportPlan, advance: Advance = lambda files: None
) -> Imported:
    """Import a folder into a site folder.

    Raises:
        DataError: the folders lie in each other, or a table of the plan cannot be used.
        SiteError: the key is not the site folder's, or the disk cannot be written.
    """
    if not folder.is_dir():
        raise DataError(
            expected="a folder to import", got="none of that name", remedy="check the path"
        )
    storage = out / plan.storage
    require_apart(folder, out, storage)
    read_settings(out, plan)
    root = folder.resolve()
    with claimed(out, storage) as key:
        people = People(key, plan.twins == "same")
        result = Imported()
        _import_tables(root, out, plan, people, result)
        _import_files(root, out, storage, plan, people, result, advance)
        result.twins = 0 if people.fold else people.twin_count
        write_settings(out, plan)
        report = QuarantineReport(tuple(result.entries), result.patients)
        report.write(storage / "quarantine" / f"import-{plan.cohort}.csv")
        if plan.link_table:
            people.write_links(storage / "links.csv")
    return result


def planned(folder: Path, plan: ImportPlan) -> int:
    """Files that an import will look at, for a progress bar."""
    patterns = [matcher(r.files) for r in plan.modalities.values() if r.files]
    return sum(bool(p.fullmatch(f.name)) for f in walk(folder.resolve()) for p in patterns)


def _import_tables(
    root: Path, out: Path, plan: ImportPlan, people: People, result: Imported
) -> None:
    """Write the manifest and the tables."""
    rules: dict[str, TableRule] = {"labels": plan.labels}
    rules |= {n: m.source for n, m in plan.modalities.items() if m.source is not None}
    for name, rule in rules.items():
        what = "labels" if name == "labels" else f"modality '{name}'"
        sheet = clean_table(root, rule, people, plan.patient_column, what=what, owner=name)
        result.tables[name] = sheet
        path = out / MANIFEST if name == "labels" else out / "tables" / f"{name}.csv"
        write_atomic(path, sheet.content)
    labelled = result.tables["labels"].patients
    result.patients = len(labelled)
    for name in rules.keys() - {"labels"}:
        result.reached[name] = len(labelled & result.tables[name].patients)


def _import_files(
    root: Path,
    out: Path,
    storage: Path,
    plan: ImportPlan,
    people: People,
    result: Imported,
    advance: Advance,
) -> None:
    """Copy the files of each modality and say in ``files.csv`` whose they are."""
    rules = {n: m for n, m in plan.modalities.items() if m.files}
    if not rules:
        return
    files: list[Found] = list(walk(root))
    journal = Journal(storage / "import" / f"{plan.cohort}.jsonl", out)
    try:
        for name, rule in rules.items():
            place = out / name
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            for inner in (place, *(p for p in place.iterdir() if p.is_dir())):
                remove_leftovers(inner)
            task = Task(name, rule, root, out, people, journal)
            result.files[name] = copy_files(task, files, advance)
            lines = [ln for ln in journal.lines.values() if ln.modality == name]
            labelled = result.tables["labels"].patients
            result.reached[name] = len(labelled & {ln.patient for ln in lines})
            if not is_series(rule):
                _write_rows(place / "files.csv", plan.patient_column, rule, lines)
    finally:
        journal.close()


def _write_rows(path: Path, key: str, rule: ModalityRule, lines: list[Line]) -> None:
    """Write which file is whose."""
    columns = {key: [ln.patient for ln in lines]}
    if rule.record is not None:
        columns[RECORD] = [ln.record for ln in lines]
    columns["file"] = [ln.file.partition("/")[2] for ln in lines]
    if rule.kind == "volume":
        columns["sequence"] = [ln.sequence for ln in lines]
    rows = sorted(zip(*columns.values(), strict=True))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([tuple(columns), *rows])
    write_atomic(path, text.getvalue().encode())
