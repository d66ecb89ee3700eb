"""Invented whole-slide images for tests: tiled TIFF with the description of an Aperio scanner."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

Colours = npt.NDArray[np.uint8]

GLASS = (243, 243, 243)
TISSUE = (205, 120, 175)


def glass(height: int, width: int, seed: int = 0) -> Colours:
    """Bare glass with the noise of a camera."""
    noise = np.random.default_rng(seed).integers(-3, 4, (height, width, 1))
    return np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)


def with_tissue(
    image: Colours, top: int, left: int, height: int, width: int, colour: Any = TISSUE
) -> Colours:
    """The same with a rectangle of stained tissue."""
    out = image.copy()
    noise = np.random.default_rng(1).integers(-12, 13, (height, width, 1))
    out[top : top + height, left : left + width] = np.clip(np.array(colour) + noise, 0, 255)
    return out


def write_slide(
    path: Path,
    image: Colours,
    mpp: float | None = 0.5,
    levels: int = 1,
    label: Colours | None = None,
    **options: Any,
) -> Path:
    """An SVS-like file; every further level has half the size of the one before.

    Args:
        mpp: None leaves it out of the description.
        label: the picture of the glass's label, as scanners append it.
    """
    height, width = image.shape[:2]
    said = f"Aperio Image Library v12.0.0\n{width}x{height} [0,0 {width}x{height}] (128x128)"
    said += "|AppMag = 20|Filename = SMITH-JANE|User = operator"
    said += "" if mpp is None else f"|MPP = {mpp}"
    shape = {"tile": (128, 128), "compression": "zlib", **options}
    with tifffile.TiffWriter(path) as file:
        file.write(image, photometric="rgb", description=said, metadata=None, **shape)
        for level in range(1, levels):
            smaller = image[:: 2**level, :: 2**level]
            file.write(smaller, photometric="rgb", description=said, metadata=None, **shape)
        if label is not None:
            # Aperio's label is a strip image with this word in its description.
            described = f"Aperio Image Library v12.0.0\nlabel {label.shape[1]}x{label.shape[0]}"
            file.write(
                label,
                photometric="rgb",
                description=described,
                metadata=None,
                subfiletype=1,
                rowsperstrip=label.shape[0],
            )
    return path
