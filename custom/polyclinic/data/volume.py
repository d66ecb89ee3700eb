"""Kind ``volume``: named sequences (T1, FLAIR, ...) of one patient, any of which may be absent.

Every file is opened and checked when the cohort opens, the sequences of a patient are brought onto
the grid of the first one that is there, and the stack is kept in the site's cache: a bad file costs
its sequence before a round starts, and an epoch reads stacks, not files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from polyclinic.data.column import Column, Reading, Request, require_agreement, rows_of
from polyclinic.data.dicom_layout import series_files
from polyclinic.data.suppression import cell, middle_half, quartiles
from polyclinic.data.volume_frame import STACK, augmentation, cropped
from polyclinic.data.volume_layout import VolumeFiles, volume_files
from polyclinic.data.volume_reader import Found, Scan, VolumeReader
from polyclinic.data.volume_recipe import VolumeRecipe, recipe_of
from polyclinic.study import Modality


@dataclass(frozen=True)
class VolumeColumn:
    """Stacks of P patients; ``None`` where a patient has none."""

    scans: tuple[Scan | None, ...] = field(repr=False)
    sequences: tuple[str, ...]
    recipe: VolumeRecipe
    # Batches are worth preparing while the one before is trained on.
    costly: ClassVar[bool] = True

    @property
    def row_bytes(self) -> int:
        """Bytes of one patient's inputs, float32."""
        return 4 * len(self.sequences) * math.prod(self.recipe.size)

    @property
    def fields(self) -> Tensor:
        """Which sequences each patient has; (P, S) bool."""
        nothing = (False,) * len(self.sequences)
        there = [nothing if s is None else s.there for s in self.scans]
        return torch.tensor(there, dtype=torch.bool).reshape(len(there), len(nothing))

    @property
    def present(self) -> Tensor:
        """Patients with any sequence; (P,) bool."""
        return self.fields.any(dim=1)

    def prepared(self, train: Tensor) -> "VolumeColumn":
        """The same stacks: each is normalised by itself."""
        return self

    def collate(
        self, rows: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, S, I, J, K) and which sequences are there (B, S).

        Each row draws one number whether or not it has a volume, so that the stacks of others do
        not depend on it.
        """
        inputs = torch.zeros((rows.numel(), len(self.sequences), *self.recipe.size))
        fields = self.fields.index_select(0, rows)
        seeds: list[int | None] = [None] * rows.numel()
        random = self.recipe.augment is not None or self.recipe.crop == "random"
        if generator is not None and random:
            seeds = torch.randint(2**31, (rows.numel(),), generator=generator).tolist()
        for i, row in enumerate(rows.tolist()):
            scan = self.scans[row]
            if scan is not None:
                inputs[i].index_copy_(0, rows_of(fields[i]), self._stack(scan, seeds[i]))
        return inputs, fields

    def _stack(self, scan: Scan, seed: int | None) -> Tensor:
        """The sequences of one patient that are there; (s, I, J, K)."""
        draw = None if seed is None else np.random.RandomState(seed)
        stack = cropped(scan.held.read(), self.recipe.size, draw)
        if self.recipe.augment is None or seed is None:
            return stack
        change = augmentation(self.recipe.augment)
        change.set_random_state(seed=seed)
        changed: Tensor = change({STACK: stack})[STACK]
        return torch.as_tensor(changed)

    def summary(self, minimum: int) -> dict[str, int | float | str]:
        """Patients by sequence and quartiles of the voxels' edges in the files.

        A count is hidden where it, or how many lack the sequence, would be a small group.
        """
        scans = [s for s in self.scans if s is not None]
        told: dict[str, int | float | str] = {"patients": cell(len(scans), minimum)}
        for sequence, count in zip(self.sequences, self.fields.sum(dim=0).tolist(), strict=True):
            few = 0 < len(scans) - count < minimum and count >= minimum
            told[sequence] = "hidden" if few else cell(count, minimum)
        for axis, name in enumerate(("right", "front", "head")):
            found = quartiles([s.spacing_mm[axis] for s in scans], minimum)
            if found:
                told[f"spacing to the {name}"] = middle_half(found, "mm")
        return told


def read(request: Request) -> Reading:
    """The volumes of a folder, framed and kept in the site's cache.

    Raises:
        StudyError: the recipe is not valid.
        DataError: no folder, or its layout is not as declared.
        DataRejected: the table of files as a whole is refused.
        SiteError: the cache folder is full or cannot be written.
    """
    require_agreement(request)
    recipe = recipe_of(request.name, request.modality)
    listed = (series_files if request.source.layout == "dicom" else volume_files)(request)
    found = VolumeReader(request, recipe, listed).all()
    entries = (*listed.entries, *(e for f in found for e in f.entries))
    column = VolumeColumn(tuple(f.scan for f in found), request.modality.features, recipe)
    return Reading(
        column,
        entries,
        duplicates=listed.duplicates,
        outside=listed.outside,
        notes=_notes(found, listed, recipe),
    )


def _notes(found: Sequence[Found], listed: VolumeFiles, recipe: VolumeRecipe) -> tuple[str, ...]:
    """What a person should know about the folder."""
    grids = [g for f in found for g in f.grids]
    notes = []
    doubtful = sum(g.doubtful for g in grids)
    if doubtful:
        notes.append(f"{doubtful} file(s) tell two places (sform and qform); the sform is used")
    scans = [f.scan for f in found if f.scan is not None]
    cut = sum(any(n > s for n, s in zip(c.lengths, recipe.size, strict=True)) for c in scans)
    if cut and recipe.crop != "random":
        notes.append(f"{cut} patient(s) have more than the recipe's size, which cuts it off")
    prints = [g.fingerprint for g in grids]
    if len(set(prints)) < len(prints):
        notes.append(f"{len(prints) - len(set(prints))} file(s) have exactly the voxels of another")
    if listed.unlisted:
        notes.append(f"{listed.unlisted} file(s) belong to no sequence of the study")
    return tuple(notes)


def absent(patients: int, modality: Modality) -> VolumeColumn:
    """A column that no patient has."""
    recipe = recipe_of("volume", modality)
    return VolumeColumn((None,) * patients, modality.features, recipe)


def join(columns: Sequence[Column]) -> VolumeColumn:
    """The columns of several sites, one below the other."""
    parts = [cast(VolumeColumn, c) for c in columns]
    scans = tuple(s for part in parts for s in part.scans)
    return VolumeColumn(scans, parts[0].sequences, parts[0].recipe)
