"""What a study predicts: one of several classes, several questions of yes and no, or the class of
every voxel of a scan."""

import unicodedata
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Word = Annotated[str, Field(min_length=1, max_length=256)]

MAX_CLASSES = 64
# Each label has three scores in each of three splits, and a reply at most 256 metrics.
MAX_LABELS = 24
# A site keeps a probability per class for every voxel of a crop, at every level of a network.
MAX_TISSUES = 16
# Each region has two scores for each subset of the sequences and each of two models.
MAX_REGIONS = 4


class Strict(BaseModel):
    """A part of an agreement: unknown fields are refused and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def distinct(words: Iterable[str]) -> bool:
    """Whether the words differ as cells are read, and none is blank."""
    given = list(words)
    read = {unicodedata.normalize("NFKC", w).strip() for w in given}
    return "" not in read and len(read) == len(given)


class Label(Strict):
    """One question of a multi-label task: a cell says yes, no, or that it is not known.

    A blank cell is not known either. Any other cell is set aside, and the record keeps the
    labels that are known.

    Attributes:
        column: of the manifest; the label's own name when empty.
        positive, negative: cells that mean yes, and no.
        unknown: cells that mean not known, such as CheXpert's -1.
    """

    column: str = Field(default="", max_length=256)
    positive: tuple[Word, ...] = Field(default=("1",), min_length=1, max_length=MAX_CLASSES)
    negative: tuple[Word, ...] = Field(default=("0",), min_length=1, max_length=MAX_CLASSES)
    unknown: tuple[Word, ...] = Field(default=("-1",), max_length=MAX_CLASSES)

    @model_validator(mode="after")
    def _distinct(self) -> "Label":
        if not distinct((*self.positive, *self.negative, *self.unknown)):
            raise ValueError("positive, negative and unknown cells must differ and not be blank")
        return self


class Mask(Strict):
    """A segmentation: what every voxel of a patient's scan is, as a mask file of the site says.

    Attributes:
        classes: in index order, the background first.
        values: the numbers of a mask file that mean them, in the same order; 0, 1, ... when empty.
        regions: by name, the classes that a region unites; regions are what is scored.
    """

    classes: tuple[Name, ...] = Field(min_length=2, max_length=MAX_TISSUES)
    values: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = Field(
        default=(), max_length=MAX_TISSUES
    )
    regions: dict[Name, tuple[Name, ...]] = Field(min_length=1, max_length=MAX_REGIONS)

    @model_validator(mode="after")
    def _fits(self) -> "Mask":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must differ")
        if self.values and (
            len(self.values) != len(self.classes) or len(set(self.values)) != len(self.values)
        ):
            raise ValueError("values are one number for each class, and differ")
        for united in self.regions.values():
            if not united or not set(united) <= set(self.classes[1:]):
                raise ValueError("a region unites one class or more, none of them the background")
        return self

    @property
    def codes(self) -> tuple[int, ...]:
        """The numbers of a mask file, in the order of ``classes``."""
        return self.values or tuple(range(len(self.classes)))

    def region(self, name: str) -> tuple[int, ...]:
        """Class indices that a region unites."""
        return tuple(sorted(self.classes.index(c) for c in self.regions[name]))


class Task(Strict):
    """What is predicted: ``label`` with ``classes``, or ``labels``, or ``mask``.

    Attributes:
        label: column of the manifest.
        classes: label values in index order; for a binary task the last one is the positive class.
        labels: by name, yes-or-no questions of which any may be unknown for a record.
        mask: a segmentation; the manifest then needs no label column.
    """

    label: str = Field(default="", max_length=256)
    classes: tuple[Word, ...] = Field(default=(), max_length=MAX_CLASSES)
    labels: dict[Name, Label] = Field(default_factory=dict, max_length=MAX_LABELS)
    mask: Mask | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Task":
        if self.mask is not None:
            if self.label or self.classes or self.labels:
                raise ValueError("a task has label and classes, or labels, or a mask, only one")
        elif self.labels:
            if self.label or self.classes:
                raise ValueError("a task has label and classes, or labels, never both")
        elif not self.label or len(self.classes) < 2:
            raise ValueError("a task needs label and two classes or more, or labels")
        if not distinct(self.classes):
            raise ValueError("classes must differ and none may be blank")
        return self

    @property
    def multi_label(self) -> bool:
        """Whether the task asks several questions, rather than for one of several classes."""
        return bool(self.labels)

    @property
    def segments(self) -> bool:
        """Whether the task asks for the class of every voxel."""
        return self.mask is not None

    @property
    def positive(self) -> str:
        """The class whose probability is scored."""
        return self.classes[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, the labels in the order of what a model predicts, or the regions."""
        if self.mask is not None:
            return tuple(self.mask.regions)
        return tuple(self.labels) or self.classes

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the manifest that hold what is predicted, in the order of ``names``."""
        if self.mask is not None:
            return ()
        return tuple(v.column or n for n, v in self.labels.items()) or (self.label,)

    @property
    def logits(self) -> int:
        """L: one for two classes, else one for each class; one for each label; of a segmentation
        one for each class of a voxel."""
        if self.mask is not None:
            return len(self.mask.classes)
        return len(self.labels) or (1 if len(self.classes) == 2 else len(self.classes))
