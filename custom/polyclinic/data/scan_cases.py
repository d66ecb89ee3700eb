"""Scans that nobody has marked yet, to be segmented, and the way back to their files' grid."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polyclinic.data.asked import requests
from polyclinic.data.batch import Batch
from polyclinic.data.dicom_series import read_series
from polyclinic.data.grid import Floats
from polyclinic.data.manifest import read_manifest
from polyclinic.data.nifti import stored_grid
from polyclinic.data.quarantine import QuarantineReport
from polyclinic.data.scan import mask_of, scan_reader
from polyclinic.data.scan_frame import looked_up
from polyclinic.data.scan_reader import Stack
from polyclinic.data.scan_recipe import recipe_of
from polyclinic.data.scan_stacks import Scans
from polyclinic.data.sequence_reader import Paths, SequenceReader
from polyclinic.errors import DataError
from polyclinic.settings import SiteSettings
from polyclinic.study import Split, Study


@dataclass(frozen=True)
class Case:
    """One patient whose scan is to be segmented; it stays at the site.

    Attributes:
        pseudonym: the patient id, or the record's where a patient has several.
        modalities: held by the site, sorted; ``stack.there`` says which of them the patient has.
    """

    pseudonym: str = field(repr=False)
    modalities: tuple[str, ...]
    stack: Stack = field(repr=False)
    _scans: Scans = field(repr=False)
    _reader: SequenceReader = field(repr=False)
    _paths: Paths = field(repr=False)

    def batch(self) -> Batch:
        """The whole stack as a batch of one patient, whose labels are unknown and 0."""
        present = {m: torch.tensor([m in self.stack.there]) for m in self.modalities}
        inputs, fields, labels, which = self._scans.collate(torch.zeros(1).long(), present)
        return Batch(inputs, fields, present, labels, which)

    def to_source(self, class_map: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Floats]:
        """A map of the stack's voxels (I, J, K) on the grid of the first sequence's file, and that
        grid's affine.

        Each voxel of the file takes the nearest of the stack, and 0 where the stack does not
        reach; what was not resampled comes back exactly. Numbers are left as they are: a class
        index becomes what a mask file says by ``Mask.codes`` afterwards.
        """
        affine, shape = self._grid()
        return looked_up(np.asarray(class_map), self.stack.affine, affine, shape), affine

    def _grid(self) -> tuple[Floats, tuple[int, ...]]:
        """Affine and shape of the first sequence's voxels as they are stored."""
        source = self._reader.request.source
        if source.layout != "dicom":
            return stored_grid(self._paths[0])
        volume = read_series(self._paths, burned_in=source.burned_in)
        return volume.affine, volume.voxels.shape


@dataclass(frozen=True)
class Cases:
    """The patients of a site whose scans are to be segmented.

    Attributes:
        report: files that were left out.
    """

    cases: tuple[Case, ...] = field(repr=False)
    report: QuarantineReport


def open_for_prediction(settings: SiteSettings, study: Study) -> Cases:
    """The patients of a site's manifest who have a sequence that the site trains on; no masks are
    read, and no split is needed.

    Raises:
        SiteError: no such cohort here, or the cache cannot be written.
        StudyError: the study does not segment, or its recipe is not valid.
        DataError: a table is refused, a patient or a file stands twice, or the site and the study
            disagree.
    """
    recipe, mask = recipe_of(study), mask_of(study)
    source = settings.cohort(study.name)
    held = {m: s for m, s in source.modalities.items() if not s.evaluation_only}
    source = source.model_copy(update={"modalities": held, "anchor": False})
    settings = settings.model_copy(update={"cohorts": {study.name: source}})
    manifest = read_manifest(source, study.model_copy(update={"split": Split()}))
    replace(manifest, drawn=False).require_distinct()
    asked = requests(settings, study, manifest)
    reader = scan_reader(asked, source, study, masks=False)
    listings = reader.listed.listings.values()
    if any(listed.duplicates for listed in listings):
        raise DataError(
            expected="one file for each sequence of a patient",
            got="several",
            remedy="run 'polyclinic data check' at this site, and keep one",
        )
    found = reader.all(asked[0].ids)
    names, sequences = tuple(sorted(reader.readers)), tuple(sorted(study.modalities))
    cases = []
    for patient, one in zip(manifest.patients, found, strict=True):
        if one.stack is None:
            continue
        first = one.stack.there[0]
        paths = reader.listed.sequences[patient.key][first]
        scans = Scans((one.stack,), sequences, recipe, mask)
        case = Case(patient.key, names, one.stack, scans, reader.readers[first], paths)
        cases.append(case)
    entries = (
        *manifest.entries,
        *(e for listed in listings for e in listed.entries),
        *(e for one in found for e in one.entries),
    )
    return Cases(tuple(cases), QuarantineReport(entries, manifest.people))
