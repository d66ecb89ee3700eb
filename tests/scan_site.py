"""A hospital of small scans with a bright spot, in memory: ``Patients`` of a segmentation."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from polyclinic.data.batch import Batch, SplitName
from polyclinic.data.scan_recipe import recipe_of
from polyclinic.study import Study, parse_study

SEQUENCES = ("flair", "t1", "t1ce")
SIZE = (16, 16, 1)
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


def scan_study(
    *,
    sequences: tuple[str, ...] = SEQUENCES,
    seed: int = 0,
    levels: int = 3,
    width: int = 4,
    size: tuple[int, int, int] = SIZE,
) -> Study:
    """Background, oedema and core; slices, or volumes where ``size`` is thicker than a voxel."""
    dims = 2 if size[2] == 1 else 3
    return parse_study(
        {
            "name": "spots",
            "task": {
                "mask": {
                    "classes": ["background", "oedema", "core"],
                    "regions": {"wt": ["oedema", "core"], "tc": ["core"]},
                }
            },
            "modalities": {m: {"kind": "volume", "features": [m]} for m in sequences},
            "scans": {
                "recipe": {"size": list(size), "box": False},
                "network": {"dims": dims, "width": width, "levels": levels},
            },
            "seed": seed,
        }
    )


@dataclass(frozen=True)
class ScanSite:
    """Patients whose row number decides their scan; half as many again for validation and test.

    Attributes:
        lacks: sequences and the rows of every split that lack them.
        classes: classes that occur here, besides the background.
        nan_row: of the training patients, one whose scan is not finite.
        garbage: what stands in a sequence that is absent; 0 by contract.
    """

    site: str
    study: Study
    modalities: tuple[str, ...]
    patients: int = 8
    minimum_cell: int = 1
    seed: int = 0
    lacks: tuple[tuple[str, int], ...] = ()
    classes: tuple[int, ...] = (1, 2)
    nan_row: int = -1
    garbage: float = 0.0

    def size(self, split: SplitName) -> int:
        """Rows of a split."""
        return self.patients if split == "train" else self.patients // 2

    def count(self, split: SplitName, modality: str) -> int:
        """Rows that carry a sequence."""
        missing = sum(m == modality and row < self.size(split) for m, row in self.lacks)
        return self.size(split) - missing if modality in self.modalities else 0

    def distinct(self, split: SplitName, modality: str | None = None) -> int:
        """Every row is a patient."""
        return self.count(split, modality) if modality else self.size(split)

    def people(self, split: SplitName, modality: str | None = None) -> Tensor:
        """As ``labels.people_of`` has it of a segmentation."""
        return torch.tensor([self.distinct(split, modality)])

    def labels(self, split: SplitName) -> Tensor:
        """A segmentation has none."""
        return torch.zeros(self.size(split), dtype=torch.int64)

    def batches(
        self, split: SplitName, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Slices in order, or shuffled."""
        rows = torch.arange(self.size(split))
        if generator is not None:
            rows = rows[torch.randperm(len(rows), generator=generator)]
        for part in rows.split(batch_size if generator is not None else 1) if len(rows) else ():
            yield self._batch(split, part)

    def _batch(self, split: SplitName, rows: Tensor) -> Batch:
        drawn = [self.scan(split, int(r)) for r in rows]
        inputs, present, fields = {}, {}, {}
        for m in self.modalities:
            i = tuple(sorted(self.study.modalities)).index(m)
            there = torch.tensor([(m, int(r)) not in self.lacks for r in rows])
            stack = torch.stack([voxels[i] for voxels, _ in drawn])[:, None]
            inputs[m] = torch.where(there.reshape(-1, 1, 1, 1, 1), stack, self.garbage)
            present[m], fields[m] = there, there[:, None]
        labels = torch.stack([mask for _, mask in drawn])
        return Batch(inputs, fields, present, labels, rows)

    def scan(self, split: SplitName, row: int) -> tuple[Tensor, Tensor]:
        """Sequences (S, I, J, K) and classes (I, J, K) of a patient."""
        generator = torch.Generator().manual_seed(
            1000 * self.seed + 100 * SPLITS.index(split) + row
        )
        size = recipe_of(self.study).size
        places = torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij")
        around = [torch.randint(n // 3, n - n // 3, (), generator=generator) for n in size]
        gaps = [(i - c).square() for i, c in zip(places, around, strict=True)]
        far = torch.stack(gaps).sum(0).float().sqrt()
        mask = torch.zeros(size, dtype=torch.int64)
        for c, radius in ((1, 4.5), (2, 2.5)):
            if c in self.classes:
                mask[far < radius] = c
        count = len(self.study.modalities)
        voxels = 0.3 * torch.randn((count, *size), generator=generator)
        for s in range(count):  # the first shows everything a little, others one class each
            voxels[s] += (mask > 0).float() if s == 0 else 1.5 * (mask == 1 + s % 2).float()
        if row == self.nan_row and split == "train":
            voxels[:] = torch.nan
        return voxels, mask
