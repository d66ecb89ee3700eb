"""One volume from the slices of a DICOM series (PS3.3 C.7.6.2, image plane).

Slices are ordered by where they lie in the patient, not by name or number. A series is a volume
when all slices have one orientation, one pixel spacing and one distance; otherwise a slice is
missing, or repeats as in a series over time, and nothing is guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from polyclinic.data.dicom import header_text, open_dicom, read_header, says_burned_in
from polyclinic.data.flaw import Flaw, guarded
from polyclinic.data.grid import MAX_VOXELS, Floats, Volume, Voxels, canonical, flaw
from polyclinic.data.pixels import bit_patterns, read_layout, stored_pixels
from polyclinic.data.quiet import quiet
from polyclinic.data.voxel_values import require_values

MAX_SLICES = 4096
EXPECTED = "the slices of one DICOM series"
# DICOM's axes run to the left and the back, an affine's to the right and the front.
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Share of the distance of slices by which one may lie elsewhere; scanners round to .01 mm.
SLACK = 0.1
TURNED = 1e-3


@dataclass(frozen=True)
class Slice:
    """Where one slice lies.

    Attributes:
        series: its SeriesInstanceUID, compared and never told.
        position: of the first pixel's centre, millimetres, (3,).
        along: directions in which columns and rows are counted, (2, 3).
        spacing: millimetres between columns and between rows, (2,).
        shape: columns and rows.
    """

    path: Path = field(repr=False)
    series: str = field(repr=False)
    position: Floats = field(repr=False)
    along: Floats = field(repr=False)
    spacing: Floats = field(repr=False)
    shape: tuple[int, int]


def read_series(paths: Sequence[Path], *, burned_in: str = "refuse") -> Volume:
    """The volume of a series, in RAS order, with the rescale of each slice applied.

    Args:
        burned_in: ``accept`` reads slices whose header says that text is in their pixels.

    Raises:
        DataRejected: with the hash of the slice at fault, or of the first one.
    """
    return guarded(paths[0], EXPECTED, lambda: _read(paths, burned_in))


def _read(paths: Sequence[Path], burned_in: str) -> Volume:
    if not 2 <= len(paths) <= MAX_SLICES:
        reason = "too_large" if len(paths) > MAX_SLICES else "missing_slices"
        raise Flaw(reason, f"{len(paths)} slice(s)")
    slices = [guarded(p, EXPECTED, partial(_placed, p, burned_in)) for p in paths]
    ordered, affine = arranged(slices)
    columns, rows = ordered[0].shape
    voxels = np.empty((columns, rows, len(ordered)), dtype=np.float32)
    for k, one in enumerate(ordered):
        voxels[:, :, k] = guarded(one.path, EXPECTED, partial(_pixels, one)).T
    require_values(voxels)
    return Volume(*canonical(voxels, affine))


def arranged(slices: Sequence[Slice]) -> tuple[list[Slice], Floats]:
    """The slices from first to last, and the affine (4, 4) of (column, row, slice) to RAS.

    Raises:
        Flaw: they do not make a volume.
    """
    first = slices[0]
    if len({s.series for s in slices}) > 1:
        raise Flaw("ambiguous_series", "slices of several series")
    if len({s.shape for s in slices}) > 1:
        raise Flaw("different_grids", "slices of different sizes")
    if first.shape[0] * first.shape[1] * len(slices) > MAX_VOXELS:
        raise Flaw("too_large", f"{len(slices)} slices")
    if any(np.abs(s.along - first.along).max() > TURNED for s in slices):
        raise Flaw("different_grids", "slices of different orientations")
    if any(not np.allclose(s.spacing, first.spacing, rtol=1e-3) for s in slices):
        raise Flaw("different_grids", "slices of different pixel spacing")
    normal = np.cross(first.along[0], first.along[1])
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    step = _step(np.stack([s.position for s in ordered]), normal)
    affine = np.eye(4)
    affine[:3, 0] = ordered[0].along[0] * first.spacing[0]
    affine[:3, 1] = ordered[0].along[1] * first.spacing[1]
    affine[:3, 2] = step
    affine[:3, 3] = ordered[0].position
    placed = RAS @ affine
    why = flaw(placed, (*first.shape, len(slices)))
    if why:
        raise Flaw("bad_affine", why)
    return ordered, placed


def _step(positions: Floats, normal: Floats) -> Floats:
    """From one slice to the next, (3,); it may lean, as with a tilted gantry."""
    distances = np.diff(positions @ normal)
    usual = float(np.median(distances))
    if usual <= 0 or distances.min() < usual * (1 - SLACK):
        raise Flaw("missing_slices", "slices at one place")
    if distances.max() > usual * (1 + SLACK):
        raise Flaw("missing_slices", "a gap between slices")
    step: Floats = (positions[-1] - positions[0]) / (len(positions) - 1)
    straight = positions[0] + np.arange(len(positions))[:, None] * step
    if np.linalg.norm(positions - straight, axis=1).max() > usual * 0.5:
        raise Flaw("different_grids", "slices that do not lie behind each other")
    return step


def _placed(path: Path, burned_in: str) -> Slice:
    """Where a slice lies, from its header alone."""
    header = read_header(path)
    if (header_text(header, "NumberOfFrames") or "1") != "1":
        raise Flaw("multi_frame", "several frames in one file")
    if burned_in != "accept" and says_burned_in(header):
        raise Flaw("burned_in", "the flag")
    position = _numbers(header, "ImagePositionPatient", 3)
    along = _numbers(header, "ImageOrientationPatient", 6).reshape(2, 3)
    between_rows, between_columns = _numbers(header, "PixelSpacing", 2)
    square = along @ along.T
    if np.abs(square - np.eye(2)).max() > 1e-2:
        raise Flaw("bad_affine", "an orientation without right angles")
    rows, columns = (int(header_text(header, k) or 0) for k in ("Rows", "Columns"))
    if not 2 <= min(rows, columns) <= max(rows, columns) <= 1 << 16:
        raise Flaw("bad_header", "rows or columns")
    series = header_text(header, "SeriesInstanceUID")
    spacing = np.array([between_columns, between_rows])
    return Slice(path, series, position, along, spacing, (columns, rows))


def _numbers(header: Dataset, keyword: str, count: int, default: str = "") -> Floats:
    """So many finite numbers of an element."""
    parts = (header_text(header, keyword) or default).split("\\")
    numbers = np.array([float(p) for p in parts if p], dtype=np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise Flaw("bad_header", f"no {keyword}")
    return numbers


def _pixels(one: Slice) -> Voxels:
    """The values of a slice, (rows, columns), as its rescale means them."""
    with quiet():
        opened = open_dicom(one.path)
        layout = read_layout(opened.header, opened.syntax)
        if layout.photometric != "MONOCHROME2":
            raise Flaw("unsupported_photometric", "a slice that is not MONOCHROME2")
        if (layout.columns, layout.rows) != one.shape:
            raise Flaw("bad_header", "another size than before")
        pixels, _ = stored_pixels(opened, layout)
        stored = bit_patterns(pixels, layout).astype(np.float32)
    if layout.signed:
        stored[stored >= 1 << (layout.stored - 1)] -= 1 << layout.stored
    slope = _numbers(opened.header, "RescaleSlope", 1, "1")[0]
    intercept = _numbers(opened.header, "RescaleIntercept", 1, "0")[0]
    if slope == 0:
        raise Flaw("bad_header", "a rescale slope of 0")
    return np.asarray(stored * np.float32(slope) + np.float32(intercept), dtype=np.float32)
