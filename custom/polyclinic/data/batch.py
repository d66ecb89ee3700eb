"""A batch of patients of whom each may lack modalities, and each modality fields.

Where a site has several records of a patient (films, visits), a row is a record and ``size`` and
``count`` are records; ``people`` and ``distinct`` count patients, and what may be told depends on
those.

Absent content is zero *and* masked: a model's output may never depend on what stands where
``present`` or ``fields`` is False (conventions.md 1.1), and a test holds every model to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from polyclinic.study import Study

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Batch:
    """B patients.

    Attributes:
        inputs: by modality; vector (B, F), bag (B, N, D), image (B, C, H, W),
            volume (B, S, I, J, K), series (B, T, F); float32, zero where absent.
        fields: by modality, what is there inside it; vector (B, F), bag (B, N), volume (B, S),
            series (B, T, F), image (B, 1); bool.
        present: by modality, which patients have it at all; (B,) bool.
        labels: class index, (B,) int64; of a multi-label task 1, 0 or NaN where unknown,
            (B, L) float32; of a segmentation the class of each voxel, (B, I, J, K) int64.
        rows: of a segmentation, whose row of the split each is; (B,) int64. A patient has several
            where several crops of a scan are drawn.
    """

    inputs: dict[str, Tensor]
    fields: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        """B."""
        return int(self.labels.shape[0])

    def restricted(self, modalities: tuple[str, ...]) -> "Batch":
        """The same patients with only these modalities."""
        return Batch(
            {m: self.inputs[m] for m in modalities if m in self.inputs},
            {m: self.fields[m] for m in modalities if m in self.fields},
            {m: self.present[m] for m in modalities if m in self.present},
            self.labels,
            self.rows,
        )

    def taken(self, keep: Tensor) -> "Batch":
        """Only the patients for whom ``keep`` (B,) is True."""
        return Batch(
            {m: v[keep] for m, v in self.inputs.items()},
            {m: v[keep] for m, v in self.fields.items()},
            {m: v[keep] for m, v in self.present.items()},
            self.labels[keep],
            None if self.rows is None else self.rows[keep],
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        return Batch(
            {m: v.to(device) for m, v in self.inputs.items()},
            {m: v.to(device) for m, v in self.fields.items()},
            {m: v.to(device) for m, v in self.present.items()},
            self.labels.to(device),
            self.rows,
        )


class Patients(Protocol):
    """What an algorithm sees of a hospital: batches by split, never files.

    ``polyclinic.data.cohort.Cohort`` is the one implementation; tests and ``compare`` make merged
    and restricted ones from it.
    """

    @property
    def site(self) -> str:
        """Name of the site."""
        ...

    @property
    def study(self) -> Study:
        """The study these patients were opened for."""
        ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities to train on, sorted: those the site holds."""
        ...

    @property
    def minimum_cell(self) -> int:
        """The site's smallest group: counts and class means of fewer patients stay at the site."""
        ...

    def size(self, split: SplitName) -> int:
        """Rows of a split that carry at least one modality: patients, or their records."""
        ...

    def count(self, split: SplitName, modality: str) -> int:
        """Rows of a split that carry this modality."""
        ...

    def distinct(self, split: SplitName, modality: str | None = None) -> int:
        """Different patients behind the rows of a split, or behind those with the modality."""
        ...

    def people(self, split: SplitName, modality: str | None = None) -> Tensor:
        """Different patients in a split (who carry the modality), by class (C,) or by side of
        each label, no and yes (L, 2); int64."""
        ...

    def labels(self, split: SplitName) -> Tensor:
        """Labels of a split in its fixed order, as in ``Batch``; (n,) or (n, L)."""
        ...

    def batches(
        self, split: SplitName, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Batches of a split: shuffled by ``generator``, or in fixed order when it is None.

        A last batch of a single patient joins the one before it.
        """
        ...
