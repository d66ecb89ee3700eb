"""Patients with modalities or fields hidden from them: in training by chance, in tests by plan."""

import hashlib
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from polyclinic.data.batch import Batch, Patients
from polyclinic.data.cohort import Cohort
from polyclinic.data.column import Column
from polyclinic.data.selection import Selection
from polyclinic.errors import StudyError


def dropped(batch: Batch, anchor: str, *, modality: float, fields: float) -> Batch:
    """The batch with modalities and fields hidden by chance, drawn from torch's random state.

    The anchor is never hidden, and a patient without it keeps every modality. What is drawn does
    not depend on any value, so that values cannot reach other draws.
    """
    present, inside = dict(batch.present), dict(batch.fields)
    nobody = torch.zeros_like(next(iter(present.values())))
    held = present.get(anchor, nobody)
    for m in sorted(set(present) - {anchor}):
        stays = torch.rand(held.shape, device=held.device) >= modality
        present[m] = present[m] & (stays | ~held)
        inside[m] = inside[m] & (torch.rand(inside[m].shape, device=held.device) >= fields)
    return replace(batch, present=present, fields=inside)


@dataclass(frozen=True)
class Veil:
    """A prepared column with rows or fields hidden.

    Attributes:
        shown: of every row (P, 1), or of every field of every row (P, F); bool.
    """

    column: Column
    shown: Tensor = field(repr=False)

    @property
    def present(self) -> Tensor:
        """Who still has something to be shown; (P,) bool."""
        return self.column.present & self.shown.any(dim=1)

    @property
    def costly(self) -> bool:
        """Whether its rows are worth making ahead."""
        return bool(getattr(self.column, "costly", False))

    @property
    def row_bytes(self) -> int:
        """As of the column; 0 where it does not tell."""
        return int(getattr(self.column, "row_bytes", 0))

    def prepared(self, train: Tensor) -> "Veil":
        """As it is: it was prepared before anything was hidden."""
        return self

    def collate(
        self, rows: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs and fields of rows, zero and False where hidden."""
        x, fields = self.column.collate(rows, generator)
        shown = self.shown.index_select(0, rows)  # (B, 1) or (B, F)
        fields = fields & shown.reshape(len(rows), *[1] * (fields.dim() - 2), -1)
        # Fields are the input's first axes; an image has one for all of its axes.
        inside = fields.reshape(*fields.shape, *[1] * (x.dim() - fields.dim()))
        return torch.where(inside, x, x.new_zeros(())), fields


def hide(
    patients: Patients, modality: str, rate: float, seed: int, *, fields: bool = False
) -> Selection:
    """The patients with a modality hidden from a share of them, or each field with that chance.

    A patient's records fare alike. What is hidden at one rate is hidden at every higher one of the
    same seed. The rows of every split stay the same, also of patients who are left with nothing.

    Args:
        fields: hide single fields of a ``vector`` or ``series``, not the modality.

    Raises:
        StudyError: a rate outside [0, 1], patients of another make, or a kind without fields.
    """
    selection = patients.selection if isinstance(patients, Cohort) else patients
    if not isinstance(selection, Selection) or not 0.0 <= rate <= 1.0:
        raise _wrong("opened patients and a rate in [0, 1]", "something else")
    column = selection.columns.get(modality)
    if column is None:
        return selection
    what = selection.study.modalities[modality]
    if fields and what.kind not in ("vector", "series"):
        raise _wrong("single fields of a vector or series", f"kind '{what.kind}'")
    shown = chances(selection, modality, seed, what.width if fields else 1) >= rate
    return selection.with_columns({**selection.columns, modality: Veil(column, shown)})


def chances(selection: Selection, modality: str, seed: int, width: int) -> Tensor:
    """Numbers in [0, 1), the same for all rows of a patient; (P, width)."""
    digest = hashlib.sha256(f"{selection.site}/{modality}/{seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    owners = selection.owners
    people = int(owners.max()) + 1 if owners.numel() else 0
    return torch.rand((people, width), generator=generator)[owners]


def _wrong(expected: str, got: str) -> StudyError:
    return StudyError(expected=expected, got=got, remedy="name what is to be hidden, and how much")
