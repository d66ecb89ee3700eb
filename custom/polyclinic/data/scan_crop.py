"""Crops of one patient's stack: where they lie and how they change, drawn before it is done."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.layers import AffineTransform
from monai.transforms.utils import create_rotate, create_translate
from torch import Tensor

from polyclinic.data.scan_recipe import ScanAugment, ScanRecipe

Places = tuple[int, int, int]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Crop:
    """What is drawn for one crop.

    Attributes:
        starts: its first voxel.
        angles: in radians about the three axes; of a slice the last one counts, in its plane.
        flips: by axis.
        contrast, brightness: of every sequence of the study, whether it is there or not; (S,).
    """

    starts: Places
    angles: tuple[float, float, float]
    flips: tuple[bool, bool, bool]
    contrast: Floats = field(repr=False)
    brightness: Floats = field(repr=False)


def draw_crop(
    draw: np.random.RandomState,
    lengths: Sequence[int],
    marked: npt.NDArray[np.int64],
    recipe: ScanRecipe,
    sequences: int,
) -> Crop:
    """A crop of a stack of these lengths; so many numbers are drawn whatever the patient has.

    Args:
        marked: positions of the voxels that the mask marks, in the flattened mask.
        sequences: S of the study.
    """
    augment = recipe.augment or ScanAugment()
    around, chosen = draw.uniform(size=2)
    places, flips = draw.uniform(size=3), draw.uniform(size=3)
    bound = math.radians(augment.rotate_degrees)
    x, y, z = draw.uniform(-bound, bound, size=3)
    much = augment.intensity
    contrast, brightness = draw.uniform(-much, much, size=(2, sequences))
    low = [0, 0, 0]
    high = [n - wanted for n, wanted in zip(lengths, recipe.size, strict=True)]
    if around < recipe.foreground and marked.size:
        centre = np.unravel_index(int(marked[int(chosen * marked.size)]), tuple(lengths))
        for axis, (at, wanted) in enumerate(zip(centre, recipe.size, strict=True)):
            low[axis] = max(0, int(at) - wanted + 1)
            high[axis] = min(high[axis], int(at))
    i, j, k = (a + int(place * (b - a + 1)) for place, a, b in zip(places, low, high, strict=True))
    flipped = [augment.flip and bool(f < 0.5) for f in flips]
    return Crop(
        (i, j, k), (x, y, z), (flipped[0], flipped[1], flipped[2]), 1.0 + contrast, brightness
    )


def changed(
    stack: Tensor, classes: Tensor, crop: Crop, order: Sequence[int], flat: bool
) -> tuple[Tensor, Tensor]:
    """A crop (s, I, J, K) and its classes (I, J, K), changed as drawn.

    Args:
        order: place of each of the s sequences among those of the study.
    """
    if any(crop.angles):
        stack = turned(stack, crop.angles, flat, "bilinear")
        classes = turned(classes[None].float(), crop.angles, flat, "nearest")[0]
    axes = [axis for axis, flip in enumerate(crop.flips) if flip]
    stack, classes = stack.flip([a + 1 for a in axes]), classes.flip(axes)
    # As MONAI's RandScaleIntensity and RandShiftIntensity, whose draws depend on what is there.
    factors, offsets = (
        torch.as_tensor(told[list(order)], dtype=torch.float32).reshape(-1, 1, 1, 1)
        for told in (crop.contrast, crop.brightness)
    )
    return stack * factors + offsets, classes.long()


def turned(stack: Tensor, angles: Sequence[float], flat: bool, mode: str) -> Tensor:
    """A stack (s, I, J, K) turned about its middle, 0 where nothing comes from.

    MONAI's Rotate without what it remembers of each step, which took most of its time.
    """
    if not stack.shape[0]:
        return stack
    image = stack[..., 0] if flat else stack
    lengths = np.array(image.shape[1:], dtype=np.float64)
    middle = (lengths - 1) / 2
    dims = len(lengths)
    turn = create_rotate(dims, [angles[2]] if flat else list(angles))
    whole = create_translate(dims, middle) @ turn @ create_translate(dims, -middle)
    work = AffineTransform(
        normalized=False,
        mode=mode,
        padding_mode="zeros",
        align_corners=False,
        reverse_indexing=True,
    )
    there = torch.as_tensor(whole, dtype=torch.float32)
    out: Tensor = work(image[None], there, spatial_size=tuple(image.shape[1:]))[0]
    return out[..., None] if flat else out
