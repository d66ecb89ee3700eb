"""The scans of a segmentation: every sequence of a patient and the mask on one grid.

Each sequence is a modality, of which a study federates one encoder, and any may be absent; the
files of a patient are read together all the same, since they are cropped and turned together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from polyclinic.data.column import Column, Reading, Request, require_agreement
from polyclinic.data.quarantine import Entry
from polyclinic.data.scan_layout import MASK, scan_files
from polyclinic.data.scan_reader import Found, ScanReader, Stack
from polyclinic.data.scan_recipe import recipe_of
from polyclinic.data.scan_stacks import Scans
from polyclinic.data.sequence_reader import SequenceReader
from polyclinic.data.suppression import cell, middle_half, quartiles
from polyclinic.errors import DataError, StudyError
from polyclinic.settings import CohortSource
from polyclinic.study import Modality, Study
from polyclinic.task import Mask

# Of a mask, what must still be marked once it lies on the grid of the sequences.
LEAST_KEPT = 0.9


@dataclass(frozen=True)
class ScanColumn:
    """Who has one sequence; its voxels are read with those of the others.

    Attributes:
        spacing_mm: of the file of each patient who has it.
    """

    there: tuple[bool, ...] = field(repr=False)
    spacing_mm: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)

    @property
    def present(self) -> Tensor:
        """Who has it, and a mask; (P,) bool."""
        return torch.tensor(self.there, dtype=torch.bool)

    def prepared(self, train: Tensor) -> "ScanColumn":
        """As it is: every sequence is normalised by itself."""
        return self

    def collate(
        self, rows: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Never called.

        Raises:
            StudyError: whoever asks for one sequence alone.
        """
        raise StudyError(
            expected="the sequences of a scan read together",
            got="one asked for by itself",
            remedy="read batches of patients",
        )

    def summary(self, minimum: int) -> dict[str, int | float | str]:
        """Patients who have it, and quartiles of the voxels' edges in the files."""
        told: dict[str, int | float | str] = {"patients": cell(sum(self.there), minimum)}
        for axis, name in enumerate(("right", "front", "head")):
            found = quartiles([mm[axis] for mm in self.spacing_mm], minimum)
            if found:
                told[f"spacing to the {name}"] = middle_half(found, "mm")
        return told


@dataclass(frozen=True)
class ScansRead:
    """What was found of a site's scans.

    Attributes:
        readings: by modality that the site declares.
        entries: what is wrong with masks.
        notes: what a person should know, without identities.
    """

    readings: Mapping[str, Reading]
    scans: Scans
    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()


def read_scans(asked: Sequence[Request], source: CohortSource, study: Study) -> ScansRead:
    """The scans and masks of a site, kept in its cache.

    Raises:
        StudyError: the recipe is not valid.
        DataError: no masks are declared, a folder is not there, or a layout is not as declared.
        DataRejected: a table of files as a whole is refused.
        SiteError: the cache folder is full or cannot be written.
    """
    if source.mask is None:
        raise DataError(
            expected="the masks of a study that segments",
            got="none declared",
            remedy="declare 'mask' beside 'modalities' in polyclinic.yaml, with its folder",
        )
    reader = scan_reader(asked, source, study, masks=True)
    found = reader.all(asked[0].ids)
    scans = Scans(
        tuple(f.stack for f in found),
        tuple(sorted(study.modalities)),
        reader.recipe,
        mask_of(study),
    )
    entries = [e for f in found for e in f.entries]
    entries += [e for listed in reader.listed.listings.values() for e in listed.entries]
    readings = {}
    for i, request in enumerate(asked):
        # Files that lie together are told of the first modality among them, masks of the first.
        names = (request.name, *([MASK] if i == 0 else []))
        listed = [reader.listed.listings[n] for n in names if n in reader.listed.listings]
        readings[request.name] = Reading(
            _column(request.name, scans.stacks),
            tuple(e for e in entries if e.modality == request.name),
            duplicates=sum(one.duplicates for one in listed),
            outside=sum(one.outside for one in listed),
        )
    rest = tuple(e for e in entries if e.modality not in readings)
    return ScansRead(readings, scans, rest, _notes(found, reader))


def mask_of(study: Study) -> Mask:
    """What a segmentation's masks mean.

    Raises:
        StudyError: the study is none.
    """
    recipe_of(study)
    return cast(Mask, study.task.mask)


def scan_reader(
    asked: Sequence[Request], source: CohortSource, study: Study, *, masks: bool
) -> ScanReader:
    """How the scans of these modalities are read, those that the site trains on first.

    Raises:
        StudyError: the recipe is not valid.
        DataError: the site and the study disagree, a folder is not there, or a layout is not as
            declared.
        DataRejected: a table of files as a whole is refused.
    """
    recipe = recipe_of(study)
    for request in asked:
        require_agreement(request)
    held = set(source.held)
    order = sorted(asked, key=lambda r: (r.name not in held, r.name))
    readers = {r.name: SequenceReader(r, recipe) for r in order}
    codes = mask_of(study).codes if masks else ()
    trained_on = sum(1 for r in order if r.name in held)
    return ScanReader(
        readers, trained_on, recipe, scan_files(asked, source.mask, masks=masks), codes
    )


def _column(name: str, stacks: Sequence[Stack | None]) -> ScanColumn:
    """Who has a sequence."""
    spacing = [s.spacing_mm[s.there.index(name)] for s in stacks if s and name in s.there]
    return ScanColumn(tuple(s is not None and name in s.there for s in stacks), tuple(spacing))


def _notes(found: Sequence[Found], reader: ScanReader) -> tuple[str, ...]:
    """What a person should know about the scans."""
    grids = [g for f in found for g in f.grids]
    notes = []
    doubtful = sum(g.doubtful for g in grids)
    if doubtful:
        notes.append(f"{doubtful} file(s) tell two places (sform and qform); the sform is used")
    prints = [g.fingerprint for g in grids]
    if len(set(prints)) < len(prints):
        notes.append(f"{len(prints) - len(set(prints))} file(s) have exactly the voxels of another")
    lost = sum(f.stack is not None and f.stack.kept < LEAST_KEPT for f in found)
    if lost:
        notes.append(
            f"the masks of {lost} patient(s) lose more than a tenth of what they mark on the grid "
            "and in the box of the sequences"
        )
    if reader.listed.unlisted:
        notes.append(
            f"{reader.listed.unlisted} file(s) are no sequence that this site declares, nor a mask"
        )
    return tuple(notes)


def absent(patients: int, modality: Modality) -> ScanColumn:
    """A column that no patient has."""
    return ScanColumn((False,) * patients)


def join(columns: Sequence[Column]) -> ScanColumn:
    """The columns of several sites, one below the other."""
    parts = [cast(ScanColumn, c) for c in columns]
    return ScanColumn(
        tuple(bool(t) for part in columns for t in part.present.tolist()),
        sum((getattr(p, "spacing_mm", ()) for p in parts), ()),
    )
