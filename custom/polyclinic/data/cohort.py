"""A hospital's cohort as one study sees it: read, quarantined, split, standardised.

Statistics of standardisation are the site's own, over its training patients of the current
split, and stay here; a study whose modality fixes ``mean`` and ``scale`` uses those instead.
The first keeps every number at home; the second costs an earlier job that agrees on them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polyclinic.data.asked import requests
from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.data.column import Column, Reading, kind_reader, rows_of
from polyclinic.data.labels import label_tensor
from polyclinic.data.manifest import Manifest, read_manifest
from polyclinic.data.quarantine import Entry, QuarantineReport
from polyclinic.data.scan import read_scans
from polyclinic.data.selection import Selection, Together, union
from polyclinic.data.split import assign
from polyclinic.errors import DataError, StudyError
from polyclinic.settings import SiteSettings
from polyclinic.study import Study


@dataclass(frozen=True)
class Records:
    """A cohort as it was read, before it is split.

    Attributes:
        readings: by modality of the study that the site declares; a column's rows are those of
            the manifest, patients or records of theirs.
        together: of a study that segments, what its modalities are read from.
    """

    manifest: Manifest
    readings: Mapping[str, Reading]
    report: QuarantineReport
    together: Together | None = None

    def require_carried(self, held: Sequence[str]) -> None:
        """Refuse a modality that the site holds and no patient carries.

        Raises:
            DataError: naming it; 'polyclinic data check' tells whose ids do not match.
        """
        for name in held:
            reading = self.readings.get(name)
            if self.manifest.patients and reading and not reading.column.present.any():
                raise DataError(
                    expected=f"patients of the manifest that carry modality '{name}'",
                    got="none",
                    remedy="run 'polyclinic data check' at this site, which compares the ids; or "
                    "take the modality out of polyclinic.yaml",
                )

    def require_distinct(self) -> None:
        """Refuse a cohort in which a patient stands twice.

        Raises:
            DataError: without counts, which 'polyclinic data check' shows.
        """
        self.manifest.require_distinct()
        for name, reading in self.readings.items():
            if reading.duplicates:
                raise DataError(
                    expected=f"every patient (or record) and slide once in modality '{name}'",
                    got="repeated rows",
                    remedy="keep one row per patient, record or slide in its table",
                )


def read_records(settings: SiteSettings, study: Study) -> Records:
    """A cohort with everything that is wrong with its rows and files on record.

    Raises:
        DataError: a table is refused as a whole, or the site and the study disagree.
    """
    manifest = read_manifest(settings.cohort(study.name), study)
    asked = requests(settings, study, manifest)
    if study.task.segments:
        read = read_scans(asked, settings.cohort(study.name), study)
        return assemble(manifest, read.readings, read.entries, read.scans)
    return assemble(manifest, {r.name: kind_reader(r.modality.kind).read(r) for r in asked})


def assemble(
    manifest: Manifest,
    readings: Mapping[str, Reading],
    entries_of_all: Sequence[Entry] = (),
    together: Together | None = None,
) -> Records:
    """The records of a manifest and what its modalities' readers found.

    Readers know rows by their own id; what they leave out is counted by patient.

    Args:
        entries_of_all: files that are left out and belong to no modality alone: masks. Whom they
            leave without anything is not told again.
    """
    owner = {p.key: p.pseudonym for p in manifest.patients}
    found = [*entries_of_all, *(e for r in readings.values() for e in r.entries)]
    explained = {e.patient for e in entries_of_all}
    entries = [
        *manifest.entries,
        *(replace(e, patient=owner.get(e.patient, e.patient)) for e in found),
    ]
    carries = torch.zeros(len(manifest.patients), dtype=torch.bool)
    for reading in readings.values():
        carries |= reading.column.present
    for row in rows_of(~carries).tolist():
        patient = manifest.patients[row]
        reference = f"manifest line {patient.line}"
        if patient.key not in explained:
            entries.append(Entry("no_modality", reference=reference, patient=patient.pseudonym))
    report = QuarantineReport(tuple(entries), manifest.people)
    return Records(manifest, readings, report, together)


@dataclass(frozen=True)
class Cohort:
    """The patients of one site for one study; implements ``Patients``.

    Attributes:
        seed: of the split that is in force.
    """

    settings: SiteSettings
    records: Records = field(repr=False)
    study: Study
    seed: int
    everything: Selection = field(repr=False)
    selection: Selection = field(repr=False)

    @property
    def site(self) -> str:
        """Name of the site."""
        return self.settings.site

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities to train on, sorted: those the site holds."""
        return self.selection.modalities

    @property
    def minimum_cell(self) -> int:
        """The site's smallest group: counts and class means of fewer patients stay here."""
        return self.settings.minimum_cell

    @property
    def quarantine(self) -> QuarantineReport:
        """What was left out, counted by reason code."""
        return self.records.report

    def size(self, split: SplitName) -> int:
        """Rows of a split that carry at least one modality."""
        return self.selection.size(split)

    def count(self, split: SplitName, modality: str) -> int:
        """Rows of a split that carry this modality."""
        return self.selection.count(split, modality)

    def distinct(self, split: SplitName, modality: str | None = None) -> int:
        """Different patients behind the rows of a split, or behind those with the modality."""
        return self.selection.distinct(split, modality)

    def people(self, split: SplitName, modality: str | None = None) -> Tensor:
        """Different patients by class (C,), or by side of each label (L, 2)."""
        return self.selection.people(split, modality)

    def labels(self, split: SplitName) -> Tensor:
        """Labels of a split in its fixed order; (n,) int64 or (n, L) float32."""
        return self.selection.labels(split)

    def batches(
        self, split: SplitName, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Batches of a split, see ``Selection.batches``."""
        return self.selection.batches(split, batch_size, generator)

    def split_mark(self) -> npt.NDArray[np.float32]:
        """SHA-256 of who is in which split, (32,): a patient more or less draws all of it anew."""
        rows = zip(self.records.manifest.patients, self.selection.assigned, strict=True)
        lines = "\n".join(sorted(f"{p.key}\t{split}" for p, split in rows))
        digest = hashlib.sha256(lines.encode()).digest()
        return np.frombuffer(digest, dtype=np.uint8).astype(np.float32)

    def resplit(self, seed: int) -> "Cohort":
        """The same records split by another seed, and standardised by the new training set."""
        everything = _selected(self.settings, self.records, self.study, seed)
        return replace(
            self,
            seed=seed,
            everything=everything,
            selection=everything.restricted(self.modalities),
        )

    def with_evaluation_only(self) -> Selection:
        """The same patients and split with the evaluation-only modalities readable too."""
        return self.everything


def _selected(settings: SiteSettings, records: Records, study: Study, seed: int) -> Selection:
    """All declared modalities, split by a seed and standardised by the training patients."""
    assigned = assign(records.manifest.patients, study.split, seed, settings.site)
    train = torch.tensor([i for i, s in enumerate(assigned) if s == "train"], dtype=torch.int64)
    columns: dict[str, Column] = {
        m: reading.column.prepared(train) for m, reading in records.readings.items()
    }
    labels = label_tensor([p.label for p in records.manifest.patients], study.task)
    owners, least = records.manifest.owners, settings.minimum_cell
    together = records.together
    return Selection(settings.site, study, columns, labels, assigned, least, owners, together)


def open_cohort(settings: SiteSettings, study: Study) -> Cohort:
    """The cohort of a study at a site, split by the study's seed.

    The list of what was left out is written to ``<storage>/quarantine/<cohort>.csv``.

    Raises:
        SiteError: no such cohort here.
        StudyError: the study reads the patient column as label or feature.
        DataError: a table is refused, a patient stands twice, the site and the study disagree,
            more patients are quarantined than the site allows, or none carries a modality that the
            site holds.
    """
    records = read_records(settings, study)
    records.report.write(Path(settings.storage) / "quarantine" / f"{study.name}.csv")
    records.require_distinct()
    records.report.require(settings.max_loss_fraction)
    records.require_carried(settings.cohort(study.name).held)
    cohort = cohort_of(settings, records, study)
    if not cohort.size("train"):
        raise DataError(
            expected="training patients that carry a modality of the study",
            got="none",
            remedy="run 'polyclinic data check' at this site",
        )
    return cohort


def cohort_of(settings: SiteSettings, records: Records, study: Study) -> Cohort:
    """The cohort of these records, split by the study's seed; nothing is refused."""
    everything = _selected(settings, records, study, study.seed)
    selection = everything.restricted(settings.cohort(study.name).held)
    return Cohort(settings, records, study, study.seed, everything, selection)


def merge(sites: Sequence[Patients], modalities: Sequence[str]) -> Patients:
    """The patients of several sites as one, restricted to these modalities.

    Patients that carry none of them are left out. Each row is standardised as at its own site.

    Raises:
        StudyError: other than cohorts and selections of one study.
    """
    parts = [s.selection if isinstance(s, Cohort) else s for s in sites]
    selections = [p for p in parts if isinstance(p, Selection)]
    if len(selections) != len(parts):
        raise StudyError(
            expected="cohorts opened by open_cohort",
            got="another kind of patients",
            remedy="open the sites first",
        )
    return union(selections, modalities, "+".join(p.site for p in selections))
