"""Stored pixels of a DICOM film as integers, after their description was checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from polyclinic.data.codec import PLUGINS
from polyclinic.data.decoder import DECODER
from polyclinic.data.dicom import NATIVE, Opened
from polyclinic.data.flaw import Flaw

MAX_PIXELS = 40_000_000
GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
PALETTE = "PALETTE COLOR"
COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
# Samples of one pixel by photometric interpretation; any other interpretation is refused.
SAMPLES: Mapping[str, int] = {**dict.fromkeys(GREY, 1), PALETTE: 1, **dict.fromkeys(COLOUR, 3)}


@dataclass(frozen=True)
class Layout:
    """How stored pixels are to be read.

    Attributes:
        allocated: bits a sample takes in an uncompressed file, 8 or 16.
        stored: bits of it that carry the value.
        planar: colours lie in planes rather than side by side.
        overlays: the other bits carry drawings, which are not pixels.
    """

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    photometric: str
    overlays: bool


def integer(header: Dataset, keyword: str, default: int | None = None) -> int:
    """One whole number of the header.

    Raises:
        Flaw: ``bad_header`` when it is absent without a default, or is no whole number.
    """
    value = header.get(keyword)
    if value is None or value == "":
        if default is None:
            raise Flaw("bad_header", f"no {keyword}")
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise Flaw("bad_header", f"{keyword} is no whole number") from None


def read_layout(header: Dataset, syntax: str) -> Layout:
    """The description of one frame of grey or colour pixels.

    Raises:
        Flaw: anything that contradicts itself, is larger than the bounds, or is not read.
    """
    if syntax not in NATIVE and syntax not in PLUGINS:
        raise Flaw("unsupported_syntax", "a transfer syntax that is not on the list")
    if integer(header, "NumberOfFrames", 1) != 1:
        raise Flaw("multi_frame", "another number of frames than 1")
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    if rows < 1 or columns < 1:
        raise Flaw("bad_header", "no rows or no columns")
    if rows * columns > MAX_PIXELS:
        raise Flaw("too_large", f"{rows} x {columns} pixels")
    photometric = str(header.get("PhotometricInterpretation", "")).strip(" \0")
    if photometric not in SAMPLES:
        raise Flaw("unsupported_photometric", "a photometric interpretation not on the list")
    samples = integer(header, "SamplesPerPixel", 1)
    if samples != SAMPLES[photometric]:
        raise Flaw("unsupported_photometric", f"{samples} samples of {photometric}")
    allocated = integer(header, "BitsAllocated")
    stored = integer(header, "BitsStored", allocated)
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise Flaw("bad_header", f"{stored} of {allocated} bits")
    if integer(header, "HighBit", stored - 1) != stored - 1:
        raise Flaw("bad_header", "pixels that do not start at the lowest bit")
    signed = integer(header, "PixelRepresentation", 0)
    planar = integer(header, "PlanarConfiguration", 0)
    if signed not in (0, 1) or planar not in (0, 1) or (signed and samples == 3):
        raise Flaw("bad_header", "PixelRepresentation or PlanarConfiguration")
    overlays = any(0x6000 <= int(tag) >> 16 <= 0x60FF for tag in header.keys())  # noqa: SIM118
    return Layout(
        rows, columns, samples, allocated, stored, bool(signed), bool(planar), photometric, overlays
    )


def stored_pixels(opened: Opened, layout: Layout) -> tuple[npt.NDArray[Any], str]:
    """Integers (rows, columns) or (rows, columns, 3), and what the samples mean.

    Raises:
        Flaw: fewer or more bytes than the header says, values beyond the stored bits, or a
            compressed stream that does not decode.
    """
    if opened.pixels is None or len(opened.pixels) == 0:
        raise Flaw("no_pixels", "no Pixel Data")
    if opened.syntax in NATIVE:
        return _native(opened, opened.pixels, layout), layout.photometric
    asked = {
        "syntax": opened.syntax,
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
        "planar_configuration": int(layout.planar),
        "photometric_interpretation": layout.photometric,
    }
    return DECODER.decode(asked, opened.pixels)


def _native(opened: Opened, data: memoryview, layout: Layout) -> npt.NDArray[Any]:
    """Uncompressed pixels, as a view of the file where it can be one."""
    halved = layout.photometric == "YBR_FULL_422"
    if halved and (layout.columns % 2 or layout.allocated != 8 or layout.planar):
        raise Flaw("bad_header", "YBR_FULL_422 of an odd width, 16 bits or in planes")
    samples = 2 if halved else layout.samples
    count = layout.rows * layout.columns * samples
    size = count * layout.allocated // 8
    if len(data) < size:
        raise Flaw("unreadable", "fewer pixels than the header says")
    # Writers pad with zeros to whole blocks; more than a row is another picture than described.
    if len(data) > size + size // layout.rows or any(data[size + size % 2 :]):
        raise Flaw("bad_header", "more pixels than the header says")
    if layout.allocated == 16:
        flat = np.frombuffer(data, "<u2" if opened.little_endian else ">u2", count)
    elif opened.swapped:
        flat = np.frombuffer(data, "<u2").byteswap().view("u1")[:count]
    else:
        flat = np.frombuffer(data, "u1", count)
    shape = (layout.rows, layout.columns)
    if halved:
        # Y of two pixels, then their common Cb and Cr; only Y is ever used.
        return flat.reshape(layout.rows, -1, 4)[..., :2].reshape(*shape, 1)
    if layout.samples == 1:
        return flat.reshape(shape)
    if layout.planar:
        return np.moveaxis(flat.reshape(3, *shape), 0, -1)
    return flat.reshape(*shape, 3)


def bit_patterns(pixels: npt.NDArray[Any], layout: Layout) -> npt.NDArray[np.uint16]:
    """The stored bits of grey or palette pixels, (rows, columns), each below 2 ** stored.

    Raises:
        Flaw: ``bad_header`` when a value needs more bits than the header says are stored.
    """
    mask = (1 << layout.stored) - 1
    if layout.signed:
        # Sign-extended or not, as the writer liked; both are read alike.
        wide = pixels.astype(np.int32)
        if pixels.dtype.kind == "u" and not layout.overlays:
            wide -= (wide >> (8 * pixels.itemsize - 1)) << (8 * pixels.itemsize)
        low, high = int(wide.min()), int(wide.max())
        fits = low >= -(1 << (layout.stored - 1)) and high <= mask
    else:
        fits = pixels.max() <= mask and (pixels.dtype.kind == "u" or pixels.min() >= 0)
    if not fits and not layout.overlays:
        raise Flaw("bad_header", f"pixel values of more than {layout.stored} bits")
    if fits and not layout.signed:
        return pixels.astype(np.uint16, copy=False)
    return (pixels.astype(np.int64) & mask).astype(np.uint16)


def spacing_mm(header: Dataset) -> tuple[float, float] | None:
    """Distance of rows and of columns in millimetres: calibrated, else on the detector, else none.

    A spacing that is no two positive numbers counts as none.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            row, column = (float(part) for part in header.get(keyword) or ())
        except (TypeError, ValueError):
            continue
        if 0 < row < math.inf and 0 < column < math.inf:
            return row, column
    return None
