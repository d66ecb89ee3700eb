"""Invented head scans: one NIfTI file per sequence."""

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

Voxels = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

SHAPE = (32, 36, 28)
SPACING_MM = 5.0
SEQUENCES = ("t1", "flair")


def scan_voxels(trait: float, rng: np.random.Generator) -> dict[str, Voxels]:
    """A head by sequence, (I, J, K); ``trait`` is how many bright spots ``flair`` shows."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"), axis=-1)
    radius = np.sqrt((np.square(grid) / np.square([0.8, 0.9, 0.75])).sum(-1))
    brain = radius < 1
    white = radius < 0.6
    t1 = brain * (600.0 + 200.0 * white)
    flair = brain * (500.0 - 100.0 * white)
    for _ in range(int(np.clip(np.round(3 + 2 * trait), 0, 9))):
        centre = rng.uniform(-0.4, 0.4, 3)
        spot = np.exp(-np.square((grid - centre) / 0.12).sum(-1))
        flair += brain * 450.0 * spot
        t1 -= brain * 150.0 * spot
    noise = 25.0 * rng.standard_normal((2, *SHAPE))
    return {
        "t1": ((t1 + noise[0]) * brain).astype(np.float32),
        "flair": ((flair + noise[1]) * brain).astype(np.float32),
    }


def write_scan(
    path: Path,
    voxels: Voxels | npt.NDArray[np.uint8],
    *,
    flipped: bool = False,
    spacing_mm: float = SPACING_MM,
) -> None:
    """One sequence or mask; ``flipped`` stores it from left to right, with the affine that says
    so."""
    affine: Affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    if flipped:
        voxels = voxels[::-1]
        affine[0, 0], affine[0, 3] = -spacing_mm, spacing_mm * (voxels.shape[0] - 1)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels), affine), path)
