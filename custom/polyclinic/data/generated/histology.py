"""Invented tissue: small whole-slide images, tiled TIFF as an Aperio scanner writes them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

Colours = npt.NDArray[np.uint8]

SIDE = 448
MPP = 0.5
TILE = 224


def tissue(trait: float, rng: np.random.Generator) -> Colours:
    """A piece of pink tissue on glass, (SIDE, SIDE, 3); ``trait`` is how dense its nuclei are."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    angle = np.arctan2(y, x)
    edge = 0.85 + 0.05 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.04 * np.sin(7 * angle)
    inside = np.hypot(x, y) < edge
    stroma = np.array([225.0, 160.0, 195.0]) + 8.0 * rng.standard_normal((SIDE, SIDE, 1))
    image = np.where(inside[..., None], stroma, 244.0)
    count = int(np.clip(140 + 70 * trait, 20, 320))
    centres = rng.integers(8, SIDE - 8, (count, 2))
    dy, dx = np.mgrid[-5:6, -5:6]
    nucleus = np.argwhere(np.hypot(dy, dx) <= 4.5) - 5
    places = (centres[:, None, :] + nucleus[None]).reshape(-1, 2)
    places = places[inside[places[:, 0], places[:, 1]]]
    image[places[:, 0], places[:, 1]] = (95.0, 60.0, 140.0)
    noisy = image + 4.0 * rng.standard_normal(image.shape)
    clipped: Colours = np.clip(noisy, 0, 255).astype(np.uint8)
    return clipped


def write_slide(path: Path, image: Colours) -> None:
    """One level and the resolution in the description, as a reader of SVS expects them."""
    said = f"Aperio Image Library v12.0.0\n{SIDE}x{SIDE} [0,0 {SIDE}x{SIDE}]"
    tifffile.imwrite(
        path,
        image,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="zlib",
        description=f"{said} ({TILE}x{TILE})|AppMag = 20|MPP = {MPP}",
        metadata=None,
    )
