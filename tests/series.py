"""DICOM series cut from a volume in RAS, for tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from film_files import encoded, film


def slices(
    voxels: np.ndarray,
    affine: np.ndarray,
    *,
    uid: str = "",
    description: str = "T1 axial",
    slope: float = 1.0,
    intercept: float = 0.0,
) -> list[Dataset]:
    """One dataset for each k of (I, J, K) stored values; affine (4, 4) in RAS."""
    series = uid or str(generate_uid())
    placed = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # to DICOM's left and back
    spacing = np.linalg.norm(placed[:3, :3], axis=0)
    made = []
    for k in range(voxels.shape[2]):
        one = film(voxels[:, :, k].T.astype(np.uint16), SeriesInstanceUID=series)
        one.SOPInstanceUID = generate_uid()
        one.SeriesDescription = description
        one.Modality = "MR"
        one.ImageOrientationPatient = [float(f"{v:.9g}") for v in _along(placed, spacing)]
        one.ImagePositionPatient = [float(f"{v:.9g}") for v in (placed @ [0, 0, k, 1])[:3]]
        one.PixelSpacing = [float(spacing[1]), float(spacing[0])]  # between rows, columns
        one.SliceThickness = 99.0  # wrong on purpose: the distance of slices counts
        one.InstanceNumber = 1  # wrong on purpose, too
        one.RescaleSlope, one.RescaleIntercept = slope, intercept
        made.append(one)
    return made


def _along(placed: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    return np.concatenate([placed[:3, 0] / spacing[0], placed[:3, 1] / spacing[1]])


def write_series(
    folder: Path,
    datasets: list[Dataset],
    change: Callable[[list[Dataset]], object] = lambda datasets: None,
    syntax: UID = ExplicitVRLittleEndian,
) -> list[Path]:
    """The files of a series, in an order and with names that mean nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    change(datasets)
    order = np.random.default_rng(0).permutation(len(datasets))
    paths = [folder / f"IM{i:04d}" for i in range(len(datasets))]
    for path, n in zip(paths, order, strict=True):
        path.write_bytes(encoded(datasets[n], syntax))
    return paths
