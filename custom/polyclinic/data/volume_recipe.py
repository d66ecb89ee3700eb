"""How the sequences of a patient become one stack of voxels, as the study fixes it."""

from typing import Annotated, Any, Literal

from pydantic import Field

from polyclinic.data.recipe import Recipe, parse_recipe
from polyclinic.errors import StudyError
from polyclinic.study import Modality

Length = Annotated[int, Field(strict=True, ge=8, le=256)]
Millimetres = Annotated[float, Field(ge=0.1, le=20.0)]
# A model reads them side by side: four of 256^3 take 256 MiB a patient.
MAX_SEQUENCES = 16


class VolumeAugment(Recipe):
    """How much a stack may differ each time it is trained on; 0 leaves it as it is.

    Attributes:
        flip: each axis is mirrored for half of the stacks; not where the side matters.
        intensity: largest change of contrast (as a share) and of brightness (in units of the
            spread), drawn for each sequence by itself.
    """

    flip: bool = False
    intensity: float = Field(default=0.0, ge=0.0, le=0.5)


class VolumeRecipe(Recipe):
    """How volumes become stacks, the same at every site.

    Attributes:
        size: voxels to the right, the front and the head.
        spacing_mm: edges of a voxel.
        orientation: order of the axes; volumes of every orientation are brought into it.
        normalise: every sequence gets mean 0 and spread 1, ``nonzero`` over its voxels that are
            not 0, which are those of the head once air or skull are 0; ``all`` over every voxel.
        crop: ``foreground`` cuts to the box of voxels above 0 in any sequence and takes the size
            around its middle; ``centre`` takes it around the middle of the field of view;
            ``random`` takes a place inside the box, drawn anew in training, the middle elsewhere.
        augment: in training only.
    """

    size: tuple[Length, Length, Length] = (96, 96, 96)
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] = (1.0, 1.0, 1.0)
    orientation: Literal["RAS"] = "RAS"
    normalise: Literal["nonzero", "all"] = "nonzero"
    crop: Literal["foreground", "centre", "random"] = "foreground"
    augment: VolumeAugment | None = None

    @property
    def boxed(self) -> bool:
        """Whether what is kept lies in the box of voxels above 0."""
        return self.crop != "centre"

    @property
    def padded(self) -> bool:
        """Whether a stack is filled up to the size before it is kept."""
        return self.crop == "random"

    @property
    def decoding(self) -> dict[str, Any]:
        """The part that decides the kept voxels; the rest is applied when they are read."""
        return self.model_dump(mode="json", exclude={"augment"})


def recipe_of(name: str, modality: Modality) -> VolumeRecipe:
    """The checked recipe of a volume modality.

    Raises:
        StudyError: it is not valid, or the study names too many sequences.
    """
    if modality.width > MAX_SEQUENCES:
        raise StudyError(
            expected=f"at most {MAX_SEQUENCES} sequences in volume '{name}'",
            got=f"{modality.width}",
            remedy="leave some out of features",
        )
    return parse_recipe(VolumeRecipe, name, modality.recipe)
