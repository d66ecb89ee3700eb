"""Small NIfTI files of invented heads, for the tests of volumes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from polyclinic.data.column import Request
from polyclinic.settings import Source
from polyclinic.study import Modality

IDS = ("p1", "p2", "p3")
SEQUENCES = ("t1", "t2", "flair")


def affine(spacing: float = 2.0, origin: Sequence[float] = (-10.0, -12.0, -8.0)) -> np.ndarray:
    made = np.diag([spacing, spacing, spacing, 1.0])
    made[:3, 3] = origin
    return made


def head(seed: int, shape: tuple[int, int, int] = (10, 12, 8)) -> np.ndarray:
    """A box of random brightness with a rim of 0."""
    voxels = np.zeros(shape, dtype=np.int16)
    inner = tuple(slice(1, n - 1) for n in shape)
    size = tuple(n - 2 for n in shape)
    voxels[inner] = np.random.default_rng(seed).integers(100, 1000, size)
    return voxels


def write(path: Path, voxels: np.ndarray, placed: np.ndarray | None = None) -> Path:
    """A NIfTI file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine() if placed is None else placed), path)
    return path


def modality(features: Sequence[str] = SEQUENCES, **recipe: object) -> Modality:
    given = {"size": [8, 10, 8], "spacing_mm": [2, 2, 2], **recipe}
    return Modality(kind="volume", features=tuple(features), recipe=given)


def request(
    root: Path,
    *,
    asked: Modality | None = None,
    ids: Sequence[str] = IDS,
    cache: Path | None = None,
    **source: Any,
) -> Request:
    declared = Source(kind="volume", **{"folder": "mri", **source})
    return Request("mri", asked or modality(), declared, root, "patient_id", tuple(ids), 0, cache)
