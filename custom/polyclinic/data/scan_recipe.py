"""How the sequences of a segmentation become one stack and its crops, as the study fixes it."""

from typing import Annotated, Any, Literal

from pydantic import Field

from polyclinic.data.recipe import Recipe, parse_recipe
from polyclinic.data.volume_recipe import MAX_SEQUENCES, Length, Millimetres
from polyclinic.errors import StudyError
from polyclinic.study import Study

# A length of a crop, or 1 across: a slice.
Depth = Annotated[Length | Literal[1], Field(union_mode="left_to_right")]


class ScanAugment(Recipe):
    """How much a crop may differ each time it is trained on; 0 leaves it as it is.

    Attributes:
        flip: each axis is mirrored for half of the crops; not where the side matters.
        rotate_degrees: largest angle about each axis, of a slice in its plane.
            Paper (FedMEPD): 10, about one axis drawn anew.
        intensity: largest change of contrast (as a share) and of brightness (in units of the
            spread), drawn for each sequence by itself. Paper: .1.
    """

    flip: bool = False
    rotate_degrees: float = Field(default=0.0, ge=0.0, le=45.0)
    intensity: float = Field(default=0.0, ge=0.0, le=0.5)


class ScanRecipe(Recipe):
    """How scans become stacks and crops, the same at every site.

    Attributes:
        size: voxels of a crop to the right, the front and the head; a head of 1 is a slice.
        spacing_mm: edges of a voxel; ``null`` keeps the grid of a patient's first sequence, and
            interpolates nothing where the others and the mask lie on it too.
        orientation: order of the axes; scans of every orientation are brought into it.
        normalise: every sequence gets mean 0 and spread 1, ``nonzero`` over its voxels that are
            not 0, ``all`` over every voxel.
        box: cut to the box of voxels above 0 in any sequence that the site trains on.
        crops: of each patient and epoch, in training; elsewhere a stack is whole.
        foreground: chance that a crop is placed around a voxel that the mask marks, drawn among
            all of them. Paper: 0.
        augment: in training only.
    """

    size: tuple[Length, Length, Depth] = (80, 80, 80)
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = (1.0, 1.0, 1.0)
    orientation: Literal["RAS"] = "RAS"
    normalise: Literal["nonzero", "all"] = "nonzero"
    box: bool = True
    crops: int = Field(default=1, ge=1, le=64)
    foreground: float = Field(default=0.0, ge=0.0, le=1.0)
    augment: ScanAugment | None = None

    @property
    def flat(self) -> bool:
        """Whether a crop is a slice."""
        return self.size[2] == 1

    @property
    def boxed(self) -> bool:
        """As ``box``, under the name that all recipes of volumes have."""
        return self.box

    @property
    def padded(self) -> bool:
        """A stack is never smaller than a crop."""
        return True

    @property
    def decoding(self) -> dict[str, Any]:
        """The part that decides the kept voxels; the rest is applied when they are read."""
        return self.model_dump(mode="json", exclude={"augment", "crops", "foreground"})


def recipe_of(study: Study) -> ScanRecipe:
    """The checked recipe of a segmentation.

    Raises:
        StudyError: it is not valid, the study names too many sequences, or it is no segmentation.
    """
    if study.scans is None:
        raise StudyError(
            expected="a study that segments",
            got="another",
            remedy="give its task a mask, and scans",
        )
    if len(study.modalities) > MAX_SEQUENCES:
        raise StudyError(
            expected=f"at most {MAX_SEQUENCES} sequences of a scan",
            got=f"{len(study.modalities)}",
            remedy="leave some out of modalities",
        )
    return parse_recipe(ScanRecipe, "scans", study.scans.recipe)
