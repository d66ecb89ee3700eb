"""How a film becomes a picture of the study's size: recipe, framing, grey values, augmentation.

Resizing, padding, cropping and augmentation are MONAI's transforms. A film is made smaller by the
mean over areas, which is antialiased by nature; pixels are kept as 8 bits: a film is averaged
over some 80 pixels for each one that is left, and a display shows no more levels.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import (
    CenterSpatialCrop,
    Compose,
    RandAffine,
    RandFlip,
    RandScaleIntensity,
    RandShiftIntensity,
    Resize,
    SpatialPad,
)
from pydantic import Field
from torch import Tensor

from polyclinic.data.recipe import Recipe

Edge = Annotated[int, Field(strict=True, ge=16, le=1024)]
Pixels = npt.NDArray[np.uint8]
# Height and width of the film itself stand before the pixels of a packed picture.
HEADER_BYTES = 8
# Of grey values in [0, 1]: a content with less spread than this is blank.
LEAST_SPREAD = 1e-3


class Augment(Recipe):
    """How much a picture may differ each time it is trained on; 0 leaves it as it is.

    Attributes:
        rotate_degrees: largest angle.
        shift: largest shift, as a share of the edge.
        scale: largest change of size, as a share.
        flip: left and right are exchanged for half of the pictures; a mirrored chest has its
            heart on the other side, so this is not for tasks where the side matters.
        intensity: largest change of contrast (as a share) and of brightness (in units of the
            spread, or of the range with ``normalise: range``).
    """

    rotate_degrees: float = Field(default=0.0, ge=0.0, le=45.0)
    shift: float = Field(default=0.0, ge=0.0, le=0.25)
    scale: float = Field(default=0.0, ge=0.0, le=0.5)
    flip: bool = False
    intensity: float = Field(default=0.0, ge=0.0, le=0.5)


class ImageRecipe(Recipe):
    """How a film becomes a picture, the same at every site.

    Attributes:
        size: height and width.
        fit: ``pad`` keeps the whole film and its proportions, ``crop`` keeps proportions and
            cuts what does not fit, ``stretch`` keeps the whole and gives up the proportions.
        normalise: ``film`` gives each film mean 0 and spread 1, so that windows and exposures of
            different hospitals matter less; ``range`` keeps grey values in [0, 1].
        augment: in training only.
    """

    size: tuple[Edge, Edge] = (224, 224)
    fit: Literal["pad", "crop", "stretch"] = "pad"
    normalise: Literal["film", "range"] = "film"
    augment: Augment | None = None

    @property
    def decoding(self) -> dict[str, Any]:
        """The part that decides the kept pixels; the rest is applied when they are read."""
        return {"size": list(self.size), "fit": self.fit}


def scaled_size(native: tuple[int, int], recipe: ImageRecipe) -> tuple[int, int]:
    """Height and width of a film after scaling, before it is padded or cropped."""
    if recipe.fit == "stretch":
        return recipe.size
    ratios = [target / length for target, length in zip(recipe.size, native, strict=True)]
    ratio = min(ratios) if recipe.fit == "pad" else max(ratios)
    height, width = (max(1, round(length * ratio)) for length in native)
    return height, width


def framed(pixels: npt.NDArray[np.float32], recipe: ImageRecipe) -> Pixels:
    """A film (H, W) in [0, 1] as a picture of the recipe's size, black where it is padded."""
    native = (pixels.shape[0], pixels.shape[1])
    target = scaled_size(native, recipe)
    mode = "area" if math.prod(target) <= math.prod(native) else "bilinear"
    picture = Resize(target, mode=mode)(torch.from_numpy(pixels)[None])  # (1, h, w)
    picture = CenterSpatialCrop(recipe.size)(SpatialPad(recipe.size)(picture))  # (1, H, W)
    levels = picture[0].mul(255).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(levels.numpy())


def content(native: tuple[int, int], recipe: ImageRecipe) -> tuple[slice, slice]:
    """Rows and columns of a picture that show the film and not its padding."""
    shown = [min(s, t) for s, t in zip(scaled_size(native, recipe), recipe.size, strict=True)]
    # As SpatialPad divides what is missing: the smaller half comes first.
    starts = [(target - length) // 2 for length, target in zip(shown, recipe.size, strict=True)]
    rows, columns = (slice(a, a + n) for a, n in zip(starts, shown, strict=True))
    return rows, columns


def pack(picture: Pixels, native: tuple[int, int]) -> Pixels:
    """Size of the film and pixels of its picture as one array; (8 + H W,)."""
    header = np.array(native, dtype="<u4").view(np.uint8)
    return np.concatenate([header, picture.ravel()])


def unpack(packed: Pixels, recipe: ImageRecipe) -> tuple[Pixels, tuple[int, int]]:
    """The picture (H, W), and height and width of its film."""
    height, width = np.array(packed[:HEADER_BYTES]).view("<u4").tolist()
    return packed[HEADER_BYTES:].reshape(recipe.size), (height, width)


def grey(picture: Pixels, native: tuple[int, int], recipe: ImageRecipe) -> Tensor:
    """A picture as a model reads it; (H, W) float32, zero where it is padded."""
    values = torch.from_numpy(picture.astype(np.float32)) / 255
    if recipe.normalise == "range":
        return values
    place = content(native, recipe)
    shown = values[place]
    spread, mean = torch.std_mean(shown, correction=0)
    out = torch.zeros_like(values)
    out[place] = (shown - mean) / spread.clamp(min=LEAST_SPREAD)
    return out


def augmentation(augment: Augment, size: tuple[int, int]) -> Compose:
    """MONAI's random transforms for pictures (1, H, W); the caller seeds them."""
    angle, edge = math.radians(augment.rotate_degrees), augment.shift
    steps: list[object] = []
    if angle or edge or augment.scale:
        steps.append(
            RandAffine(
                prob=1.0,
                rotate_range=angle,
                translate_range=tuple(edge * length for length in size),
                scale_range=(augment.scale, augment.scale),
                padding_mode="zeros",
            )
        )
    if augment.flip:
        steps.append(RandFlip(prob=0.5, spatial_axis=1))
    if augment.intensity:
        steps += [
            RandScaleIntensity(augment.intensity, prob=1.0),
            RandShiftIntensity(augment.intensity, prob=1.0),
        ]
    return Compose(steps)
