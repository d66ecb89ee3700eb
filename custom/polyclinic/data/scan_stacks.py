"""The stacks of a segmentation's patients, and the crops that batches are made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from polyclinic.data.scan_crop import changed, draw_crop
from polyclinic.data.scan_reader import Stack
from polyclinic.data.scan_recipe import ScanRecipe
from polyclinic.data.suppression import cell
from polyclinic.errors import StudyError
from polyclinic.task import Mask


@dataclass(frozen=True)
class Scans:
    """The stacks of P patients; implements ``Together``.

    Attributes:
        stacks: by row; ``None`` where a patient has none that can be used.
        sequences: modalities of the study, sorted.
    """

    stacks: tuple[Stack | None, ...] = field(repr=False)
    sequences: tuple[str, ...]
    recipe: ScanRecipe
    mask: Mask

    @property
    def row_bytes(self) -> int:
        """Bytes of what is learnt from one patient: inputs and classes of all crops."""
        return self.recipe.crops * math.prod(self.recipe.size) * (4 * len(self.sequences) + 8)

    def collate(
        self, rows: Tensor, present: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
        """Inputs by modality (B, 1, I, J, K), fields (B, 1), classes (B, I, J, K) int64, and the
        place in ``rows`` of each one's patient, (B,).

        With a generator so many crops of each patient as the recipe says; without, the whole
        stack of the only one. A row draws the same numbers whoever has which sequence.

        Args:
            rows: of patients who have a stack.
            present: by modality, who is to show it, (len(rows),) bool.
        """
        shown = [
            tuple(m for m, there in present.items() if bool(there[i])) for i in range(len(rows))
        ]
        if generator is None:
            parts = [(i, self._whole(r, shown[i])) for i, r in enumerate(rows.tolist())]
        else:
            seeds = torch.randint(2**31, (len(rows),), generator=generator).tolist()
            parts = [
                (i, crop)
                for i, r in enumerate(rows.tolist())
                for crop in self._crops(r, shown[i], seeds[i])
            ]
        classes = torch.stack([classes for _, (_, classes) in parts])
        which = torch.tensor([i for i, _ in parts], dtype=torch.int64)
        inputs = {m: torch.zeros((len(parts), 1, *classes.shape[1:])) for m in present}
        for place, (i, (stack, _)) in enumerate(parts):
            for m, voxels in zip(shown[i], stack, strict=True):
                inputs[m][place, 0] = voxels
        fields = {m: there[which][:, None] for m, there in present.items()}
        return inputs, fields, classes, which

    def _stack(self, row: int) -> Stack:
        stack = self.stacks[row]
        if stack is None:
            raise StudyError(
                expected="rows of patients who carry a sequence",
                got="another",
                remedy="read the rows of a split",
            )
        return stack

    def _whole(self, row: int, shown: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The shown sequences (s, I, J, K) and the classes (I, J, K) of a patient."""
        stack = self._stack(row)
        places = [stack.there.index(m) for m in shown]
        voxels = torch.from_numpy(np.array(stack.held.read()[places])).float()
        if stack.mask is None:
            return voxels, torch.zeros(stack.lengths, dtype=torch.int64)
        return voxels, torch.from_numpy(np.array(stack.mask.read())).long()

    def _crops(self, row: int, shown: Sequence[str], seed: int) -> list[tuple[Tensor, Tensor]]:
        """Crops of the shown sequences and their classes, as the seed draws them."""
        stack, draw = self._stack(row), np.random.RandomState(seed)
        held = stack.held.read()
        mask = np.zeros(stack.lengths, np.uint8) if stack.mask is None else stack.mask.read()
        marked = np.flatnonzero(mask) if self.recipe.foreground else np.empty(0, np.int64)
        places = [stack.there.index(m) for m in shown]
        order = [self.sequences.index(m) for m in shown]
        crops = []
        for _ in range(self.recipe.crops):
            crop = draw_crop(draw, stack.lengths, marked, self.recipe, len(self.sequences))
            cut = tuple(slice(a, a + n) for a, n in zip(crop.starts, self.recipe.size, strict=True))
            # Cut before it is widened: the rest of a memory-mapped stack is never read.
            voxels = [torch.from_numpy(np.array(held[p][cut])).float() for p in places]
            together = torch.stack(voxels) if voxels else torch.empty((0, *self.recipe.size))
            classes = torch.from_numpy(np.array(mask[cut]))
            crops.append(changed(together, classes, crop, order, self.recipe.flat))
        return crops

    def below(self, others: Sequence["Scans"]) -> "Scans":
        """These patients and those of other sites, one below the other."""
        return replace(self, stacks=sum((o.stacks for o in others), self.stacks))

    def summary(self, minimum: int) -> dict[str, int | float | str]:
        """Patients with a mask, and those whose mask has any voxel of each class.

        A count is hidden where it, or how many lack the class, would be a small group.
        """
        masked = [s for s in self.stacks if s is not None and s.mask is not None]
        told: dict[str, int | float | str] = {"patients": cell(len(masked), minimum)}
        for i, name in enumerate(self.mask.classes):
            count = sum(1 for s in masked if s.voxels[i])
            few = 0 < len(masked) - count < minimum and count >= minimum
            told[name] = "hidden" if few else cell(count, minimum)
        return told
