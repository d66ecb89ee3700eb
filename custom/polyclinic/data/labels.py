"""What the cells of a manifest say, the same as tensors, and how many patients stand behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyclinic.data.cell import BLANK
from polyclinic.data.identity import as_id
from polyclinic.study import Label, Task

# A class index; of a multi-label task, per label, 1, 0 or -1 for unknown.
Answer = int | tuple[int, ...]
UNKNOWN = -1


@dataclass(frozen=True)
class LabelCells:
    """How the label columns of a manifest are read.

    Attributes:
        columns: of the manifest, one for each entry of ``places``.
        places: by cell, the class index, or 1, 0 or -1.
    """

    columns: tuple[str, ...]
    places: tuple[Mapping[str, int], ...]
    multi_label: bool

    @classmethod
    def of(cls, task: Task) -> "LabelCells":
        """The cells that a study knows, spelled as cells are read."""
        if task.segments:
            return cls((), (), False)
        if task.multi_label:
            places = tuple(_sides(label) for label in task.labels.values())
            return cls(task.columns, places, True)
        classes = {as_id(c): i for i, c in enumerate(task.classes)}
        return cls(task.columns, (classes,), False)

    def read(self, row: Mapping[str, str]) -> tuple[Answer | None, bool]:
        """What a row says (``None``: nothing is known) and whether all its cells mean something."""
        if not self.columns:  # what is asked for stands in a file of its own
            return 0, True
        if not self.multi_label:
            found = self.places[0].get(as_class(row[self.columns[0]], self.places[0]))
            return found, found is not None
        answers, clear = [], True
        for column, sides in zip(self.columns, self.places, strict=True):
            cell = as_class(row[column], sides)
            clear = clear and (cell in sides or cell.lower() in BLANK)
            answers.append(sides.get(cell, UNKNOWN))
        known = any(a != UNKNOWN for a in answers)
        return tuple(answers) if known else None, clear


def _sides(label: Label) -> dict[str, int]:
    """1, 0 or -1 by cell."""
    sides = ((label.unknown, UNKNOWN), (label.negative, 0), (label.positive, 1))
    return {as_id(cell): side for cells, side in sides for cell in cells}


def as_class(cell: str, classes: Mapping[str, int]) -> str:
    """The class a label cell means: its own text, else a whole number without its point."""
    cell = as_id(cell)
    if cell in classes:
        return cell
    try:
        return as_id(float(cell))
    except (ValueError, OverflowError):
        return cell


def label_tensor(answers: Sequence[Answer], task: Task) -> Tensor:
    """Class indices (P,) int64, or 1, 0 and NaN where unknown (P, L) float32."""
    if not task.multi_label:
        return torch.tensor(answers, dtype=torch.int64)
    table = torch.tensor(answers, dtype=torch.float32).reshape(len(answers), task.logits)
    return torch.where(table == UNKNOWN, torch.nan, table)


def people_of(labels: Tensor, owners: Tensor, task: Task) -> Tensor:
    """How many different patients stand behind each class (C,), or each side of each label (L, 2);
    behind a segmentation (1,).

    The sides are no and yes. A patient with records of both counts in both.

    Args:
        labels: of records, as ``label_tensor`` makes them.
        owners: number of the patient of each record, (n,) int64.
    """
    if task.multi_label:
        sides = [[labels[:, i] == side for side in (0, 1)] for i in range(task.logits)]
        return torch.tensor([[different(owners[there]) for there in pair] for pair in sides])
    if task.segments:
        return torch.tensor([different(owners)])
    return torch.tensor([different(owners[labels == c]) for c in range(len(task.classes))])


def most_rows(owners: Tensor) -> int:
    """The largest number of rows that one patient has; 1 when nobody has any."""
    return int(torch.bincount(owners).max()) if owners.numel() else 1


def different(owners: Tensor) -> int:
    """How many different patients there are among these numbers of patients."""
    return len(set(owners.tolist()))
