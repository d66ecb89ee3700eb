"""Invented brains with a tumour: three sequences that show its parts unlike, and what is what."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyclinic.data.generated.scan import Voxels

Floats = npt.NDArray[np.float64]
Classes = npt.NDArray[np.uint8]

SHAPE = (24, 24, 16)
SPACING_MM = 7.0
SEQUENCES = ("t1", "t1ce", "flair")
# Class indices; a mask file has the numbers that the study's ``values`` say.
OEDEMA, CORE = 1, 2
# Brightness of brain, white matter above it, oedema and core, by sequence: FLAIR shows oedema
# best, T1 after contrast the core, and plain T1 neither well.
TISSUES: Mapping[str, tuple[float, float, float, float]] = {
    "t1": (480.0, 140.0, -90.0, -140.0),
    "t1ce": (480.0, 140.0, -50.0, 330.0),
    "flair": (420.0, -60.0, 330.0, 190.0),
}


@dataclass(frozen=True)
class Scanner:
    """What a hospital's machine does to brightness.

    Attributes:
        gain: by sequence, what everything is multiplied by.
        noise: of a voxel, in the units of ``TISSUES``.
        shading: how much brighter one side is than the other, as a share.
    """

    gain: Mapping[str, float]
    noise: float
    shading: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Scanner":
        """Another machine."""
        gain = {s: float(rng.uniform(0.6, 1.6)) for s in SEQUENCES}
        return cls(gain, float(rng.uniform(25.0, 60.0)), float(rng.uniform(-0.15, 0.15)))


def brain_with_tumour(
    scanner: Scanner, rng: np.random.Generator
) -> tuple[dict[str, Voxels], Classes]:
    """A brain by sequence and the class of each voxel, all (I, J, K)."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"), axis=-1)
    radius = np.sqrt((np.square(grid) / np.square([0.85, 0.92, 0.85])).sum(-1))
    brain, white = radius < 1, radius < 0.65
    middle = rng.uniform(-0.35, 0.35, 3)
    whole = _blob(grid, middle, rng.uniform(0.3, 0.5, 3)) & brain
    inside = middle + rng.uniform(-0.08, 0.08, 3)
    core = _blob(grid, inside, rng.uniform(0.15, 0.28, 3)) & whole
    classes = np.zeros(SHAPE, dtype=np.uint8)
    classes[whole], classes[core] = OEDEMA, CORE
    shading = 1.0 + scanner.shading * grid[..., 0]
    found = {}
    for name, (level, more, oedema, marked) in TISSUES.items():
        clean = level + more * white + oedema * (classes == OEDEMA) + marked * (classes == CORE)
        noise = scanner.noise * rng.standard_normal(SHAPE)
        bright = scanner.gain[name] * (clean * shading + noise).clip(min=1.0)
        found[name] = (bright * brain).astype(np.float32)
    return found, classes


def _blob(grid: Floats, centre: Floats, radii: Floats) -> npt.NDArray[np.bool_]:
    """The voxels of an ellipsoid."""
    inside: npt.NDArray[np.bool_] = np.square((grid - centre) / radii).sum(-1) < 1
    return inside
