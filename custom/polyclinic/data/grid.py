"""Where the voxels of a volume lie in a patient, and whether a file's word for it can be believed.

An affine (4, 4) maps voxel indices (i, j, k) to millimetres in RAS: x to the patient's right,
y to the front, z to the head.
"""

import hashlib
import math
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Voxels = npt.NDArray[np.float32]

# Of one volume, one gigabyte as float32: a CT of 512 x 512 x 1024.
MAX_VOXELS = 1 << 28
# No voxel of a scanner is smaller or larger, and no patient longer.
SPACING_MM = (0.01, 50.0)
MAX_EXTENT_MM = 3000.0
MAX_ORIGIN_MM = 1e5
# Volume of the unit cell over that of a box with its edges; a gantry tilted by 30 degrees has .87.
MIN_SQUARENESS = 0.1
# Share of the smaller field of view that two volumes must have in common to be of one place.
MIN_OVERLAP = 0.25
LATTICE = 12


@dataclass(frozen=True)
class Volume:
    """A scan in RAS order.

    Attributes:
        voxels: (I, J, K) float32, finite; i runs to the right, j to the front, k to the head.
        affine: (4, 4) float64, voxel indices to millimetres.
        doubtful: the file tells two places that differ; the one nibabel prefers was taken.
    """

    voxels: Voxels = field(repr=False)
    affine: Floats = field(repr=False)
    doubtful: bool = False

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edges of a voxel."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Grid:
    """What is remembered of a file: where it lies, and a fingerprint of its voxels."""

    affine: Floats = field(repr=False)
    shape: tuple[int, int, int]
    doubtful: bool
    fingerprint: tuple[float, ...] = field(repr=False)

    @classmethod
    def of(cls, volume: Volume) -> "Grid":
        """The grid of a volume."""
        i, j, k = volume.voxels.shape
        digest = hashlib.sha256(volume.voxels.data).digest()
        parts = [float(int.from_bytes(digest[n : n + 6], "big")) for n in (0, 6, 12, 18)]
        return cls(volume.affine, (i, j, k), volume.doubtful, tuple(parts))

    def packed(self) -> Floats:
        """The same as one array (6, 4)."""
        rows = [[*self.shape, float(self.doubtful)], list(self.fingerprint)]
        return np.vstack([self.affine, np.array(rows, dtype=np.float64)])

    @classmethod
    def unpacked(cls, packed: Floats) -> "Grid":
        """The grid of such an array."""
        i, j, k, doubtful = packed[4].tolist()
        shape = (int(i), int(j), int(k))
        return cls(np.array(packed[:4]), shape, bool(doubtful), tuple(packed[5].tolist()))


def spacing_of(affine: Floats) -> tuple[float, float, float]:
    """Edges of a voxel in millimetres."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def flaw(affine: Floats, shape: tuple[int, ...]) -> str:
    """Why an affine cannot be believed, or ""."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return "an affine that is not finite"
    with np.errstate(all="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.isfinite(spacing).all() or (spacing == 0).any():
            return "an affine of zeros"
        if (spacing < SPACING_MM[0]).any() or (spacing > SPACING_MM[1]).any():
            return f"voxels outside {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm"
        if abs(np.linalg.det(affine[:3, :3] / spacing)) < MIN_SQUARENESS:
            return "a singular affine"
    if (spacing * shape > MAX_EXTENT_MM).any() or (np.abs(affine[:3, 3]) > MAX_ORIGIN_MM).any():
        return "a field of view larger than a patient"
    return ""


def canonical(voxels: npt.NDArray[np.generic], affine: Floats) -> tuple[Voxels, Floats]:
    """The same voxels in the order nearest to RAS; nothing is interpolated."""
    orientation = nib.orientations.io_orientation(affine)
    turned = nib.orientations.apply_orientation(voxels, orientation)
    moved = affine @ nib.orientations.inv_ornt_aff(orientation, voxels.shape)
    return np.ascontiguousarray(turned, dtype=np.float32), np.asarray(moved, dtype=np.float64)


def overlap(a: Floats, a_shape: tuple[int, ...], b: Floats, b_shape: tuple[int, ...]) -> float:
    """Share of the smaller field of view that lies in the other one, in [0, 1].

    Told from a lattice of ``LATTICE`` points per axis.
    """
    if _content(a, a_shape) > _content(b, b_shape):
        a, a_shape, b, b_shape = b, b_shape, a, a_shape
    steps = [(np.arange(LATTICE) + 0.5) / LATTICE * n - 0.5 for n in a_shape]
    indices = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)  # (n, 3)
    turn = np.linalg.inv(b) @ a
    there = indices @ turn[:3, :3].T + turn[:3, 3]
    inside = ((there >= -0.5) & (there <= np.array(b_shape) - 0.5)).all(axis=1)
    return float(inside.mean())


def _content(affine: Floats, shape: tuple[int, ...]) -> float:
    """The field of view in cubic millimetres."""
    return abs(float(np.linalg.det(affine[:3, :3]))) * math.prod(shape)
