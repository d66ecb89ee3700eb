"""Segmenting a site's scans with what a run left: class maps on the files' own grid, and scores.

Everything here stays at the site: files are named for patients, and the table holds a row of each.
"""

import csv
import gzip
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast, runtime_checkable
from urllib.parse import quote

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polyclinic.algorithms.overlap import dice, hd95, region_masks
from polyclinic.data.batch import Batch
from polyclinic.data.cohort import cohort_of, read_records
from polyclinic.data.quarantine import inert
from polyclinic.data.scan import mask_of
from polyclinic.data.scan_cases import Case
from polyclinic.data.scan_stacks import Scans
from polyclinic.device import on_device, require_device
from polyclinic.evaluation.overlays import overlay
from polyclinic.exchange import Array, Contract, State, Tensors
from polyclinic.models.weights import weights_at
from polyclinic.settings import SiteSettings
from polyclinic.storage import write_atomic
from polyclinic.study import Study
from polyclinic.task import Mask

Model = Literal["personal", "global"]
TABLE = "scores.csv"
# The split of a patient whom the run did not have, or not in the cohort as it is now.
UNKNOWN = "unknown"
_ODD_START = re.compile(r"^[.\-]+")
# Of a file's name, in bytes; 255 with its endings.
LONGEST_NAME = 200


@runtime_checkable
class SegmentingClient(Protocol):
    """A client half that can segment a whole scan."""

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        ...

    def segment(
        self,
        batch: Batch,
        study: Study,
        state: State,
        personal: Tensors,
        *,
        model: Model = "personal",
        sequences: tuple[str, ...] = (),
    ) -> Tensor:
        """Class of every voxel (I, J, K), uint8, of one patient's whole stack."""
        ...


@dataclass(frozen=True)
class Truth:
    """What a site knows of a patient.

    Attributes:
        split: in which the run had the patient; ``unknown`` where that cannot be told any more.
        classes: of every voxel of the stack, (I, J, K).
    """

    split: str
    classes: npt.NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True)
class Score:
    """Scores of one patient by region; NaN where not defined."""

    pseudonym: str = field(repr=False)
    split: str
    dice: tuple[float, ...]
    hd95: tuple[float, ...]


@dataclass(frozen=True)
class Segmenter:
    """A run's model at a site.

    Attributes:
        sequences: that are shown to the model, of those that a patient has; all when empty.
        out: folder that receives a map of each patient.
        overlays: write a picture of each patient beside it.
        split_mark: of the cohort when the run ended, see ``Cohort.split_mark``; None when the site
            keeps none.
    """

    settings: SiteSettings
    study: Study
    client: SegmentingClient
    state: State
    personal: Tensors = field(repr=False)
    model: Model
    sequences: tuple[str, ...]
    out: Path
    overlays: bool = False
    split_mark: Array | None = field(default=None, repr=False)

    def run(
        self,
        cases: Iterable[Case],
        truths: Mapping[str, Truth],
        advance: Callable[[int], None],
    ) -> tuple[int, list[Score]]:
        """How many patients were segmented, and scores of those whose truth is known.

        A patient without any of the sequences is passed over.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        torch.set_num_threads(self.settings.threads)
        written, found = 0, list[Score]()
        with (
            on_device(require_device(self.settings.device)),
            weights_at(self.settings.weights),
            torch.no_grad(),
        ):
            for case in cases:
                shown = tuple(s for s in self.sequences or case.modalities if s in case.stack.there)
                if shown:
                    found += self._one(case, shown, truths.get(case.pseudonym))
                    written += 1
                advance(1)
        return written, found

    def _one(self, case: Case, shown: tuple[str, ...], truth: Truth | None) -> list[Score]:
        """Write the map of one patient; the score, where the truth is known."""
        batch, mask = case.batch(), mask_of(self.study)
        classes = self.client.segment(
            batch, self.study, self.state, self.personal, model=self.model, sequences=shown
        )
        name = file_name(case.pseudonym)
        write_map(self.out / f"{name}.nii.gz", case, classes.numpy(), mask)
        if truth is not None and truth.classes.shape != tuple(classes.shape):
            truth = None  # another grid: the files changed since the cohort was read
        if self.overlays:
            scan = batch.inputs[shown[0]][0, 0].numpy()
            known = truth.classes if truth else None
            picture = overlay(scan, classes.numpy(), known, _spacing(case), mask.classes)
            write_atomic(self.out / f"{name}.png", picture, durable=False)
        if truth is None:
            return []
        predicted = region_masks(classes, mask)
        true = region_masks(torch.from_numpy(truth.classes), mask)
        shares, distances = dice(predicted, true).tolist(), hd95(predicted, true).tolist()
        return [Score(case.pseudonym, truth.split, tuple(shares), tuple(distances))]


def file_name(pseudonym: str) -> str:
    """A patient's name as that of a file: never a path, never hidden."""
    name = quote(pseudonym, safe=" +,=@")
    name = _ODD_START.sub(lambda found: "".join(f"%{ord(c):02X}" for c in found[0]), name)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME // 2]}=={hashlib.sha256(pseudonym.encode()).hexdigest()}"


def write_map(path: Path, case: Case, classes: npt.NDArray[np.uint8], mask: Mask) -> None:
    """A class map as a NIfTI file on the grid of the patient's own file, in the study's codes.

    Raises:
        CheckpointError: it cannot be written.
    """
    found, affine = case.to_source(classes)
    codes = np.array(mask.codes)
    dtype = np.uint8 if codes.max() <= np.iinfo(np.uint8).max else np.uint16
    image = nib.Nifti1Image(codes.astype(dtype)[found], affine)
    write_atomic(path, gzip.compress(image.to_bytes(), mtime=0), durable=False)


def known_truths(settings: SiteSettings, study: Study, mark: Array | None) -> dict[str, Truth]:
    """What the masks of a site say, and in which split the run had each patient, by key; {} where
    the site has no masks. Patients without one are no matter: they are to be segmented, too.

    Args:
        mark: of the cohort that the run had. A patient more or less draws another split, in which
            a patient of the training may stand as one of the test: it is then told of nobody.

    Raises:
        PolyclinicError: the cohort cannot be read, or a patient stands twice.
    """
    if settings.cohort(study.name).mask is None:
        return {}
    records = read_records(settings, study)
    records.require_distinct()
    cohort = cohort_of(settings, records, study)
    drawn = study.split.source != "manifest"
    same = not drawn or (mark is not None and np.array_equal(cohort.split_mark(), mark))
    scans, truths = cast(Scans, cohort.records.together), {}
    rows = zip(
        cohort.records.manifest.patients, scans.stacks, cohort.selection.assigned, strict=True
    )
    for patient, stack, split in rows:
        if stack is not None and stack.mask is not None:
            classes = np.array(stack.mask.read(), dtype=np.uint8)
            truths[patient.key] = Truth(split if same else UNKNOWN, classes)
    return truths


def write_scores(out: Path, found: Iterable[Score], mask: Mask) -> None:
    """The table of scores, a row of each patient; an empty cell is a score that is not defined.

    Raises:
        CheckpointError: it cannot be written.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    kinds = [f"{kind}_{region}" for kind in ("dice", "hd95") for region in mask.regions]
    writer.writerow(["patient", "split", *kinds])
    for score in found:
        values = (*score.dice, *score.hd95)
        cells = ["" if math.isnan(v) else f"{v:.6g}" for v in values]
        writer.writerow([inert(score.pseudonym), score.split, *cells])
    write_atomic(out / TABLE, table.getvalue().encode())


def _spacing(case: Case) -> tuple[float, float, float]:
    """Edges of a voxel of the stack in millimetres."""
    edges = np.sqrt((case.stack.affine[:3, :3] ** 2).sum(axis=0))
    return float(edges[0]), float(edges[1]), float(edges[2])
