"""One film as brightness, from a DICOM, PNG or JPEG file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from polyclinic.data.dicom import (
    MAX_FILE_BYTES,
    MAX_INFLATED_BYTES,
    PREAMBLE,
    parse,
    says_burned_in,
)
from polyclinic.data.flaw import Flaw, guarded, read_bytes
from polyclinic.data.photometric import luma, read_tone
from polyclinic.data.pixels import (
    GREY,
    PALETTE,
    bit_patterns,
    read_layout,
    spacing_mm,
    stored_pixels,
)
from polyclinic.data.quiet import quiet
from polyclinic.data.raster import read_raster

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Rows looked up at once: indices and result stay in the processor's cache.
ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Film:
    """One picture.

    Attributes:
        pixels: (rows, columns) float32 in [0, 1]; bone is bright, as on a light box.
        spacing_mm: distance of rows and of columns; ``None`` where the file does not say.
    """

    pixels: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float] | None
    source: Literal["dicom", "png", "jpeg"]


def read_film(path: Path, *, burned_in: str = "refuse", shrink_to: int | None = None) -> Film:
    """The film of one file.

    Args:
        burned_in: "refuse" or "accept" a film whose header says that text is burned in.
        shrink_to: average boxes of k x k pixels, with the largest whole k that leaves both edges
            at least this long; ``None`` keeps every pixel. Brightness is averaged, so that the
            result equals the box mean of the whole film to 1e-6.

    Raises:
        DataRejected: with a reason code and the file's hash.
    """
    return guarded(path, "a film as DICOM, PNG or JPEG", lambda: _film(path, burned_in, shrink_to))


def _film(path: Path, burned_in: str, shrink_to: int | None) -> Film:
    data = read_bytes(path, MAX_FILE_BYTES)
    if data.startswith((PNG, JPEG)):
        pixels = read_raster(data)
        source: Literal["dicom", "png", "jpeg"] = "png" if data.startswith(PNG) else "jpeg"
        film = Film(pixels, None, source)
    elif data[128:PREAMBLE] == b"DICM":
        film = _from_dicom(data, burned_in)
    else:
        raise Flaw("not_an_image" if data else "unreadable", f"{len(data)} bytes")
    if film.pixels.min() == film.pixels.max():
        raise Flaw("constant_image", "one brightness")
    return film if shrink_to is None else _shrunk(film, shrink_to)


def _from_dicom(data: bytes, burned_in: str) -> Film:
    """The film of a DICOM file in memory."""
    with quiet():
        opened = parse(data, MAX_INFLATED_BYTES)
        header = opened.header
        if opened.pixels is None:
            raise Flaw("no_pixels", "no Pixel Data")
        if burned_in != "accept" and says_burned_in(header):
            raise Flaw("burned_in", "BurnedInAnnotation YES")
        layout = read_layout(header, opened.syntax)
        grey = layout.photometric in GREY or layout.photometric == PALETTE
        tone = read_tone(header, layout) if grey else None
        spacing = spacing_mm(header)
    pixels, photometric = stored_pixels(opened, layout)
    if tone is None:
        return Film(luma(pixels, photometric, layout.stored), spacing, "dicom")
    patterns = bit_patterns(pixels, layout)
    return Film(_looked_up(tone.table(patterns), patterns), spacing, "dicom")


def _looked_up(
    table: npt.NDArray[np.float32], patterns: npt.NDArray[np.uint16]
) -> npt.NDArray[np.float32]:
    """The table's entry of each pixel."""
    found = np.empty(patterns.shape, np.float32)
    for start in range(0, len(found), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        # Patterns are below the table's length, so that "clip" only spares a check.
        np.take(table, patterns[rows], out=found[rows], mode="clip")
    return found


def _shrunk(film: Film, edge: int) -> Film:
    """Means of boxes; boxes at the far edges may hold fewer pixels."""
    factor = max(1, min(film.pixels.shape) // max(1, edge))
    if factor == 1:
        return film
    small = np.asarray(Image.fromarray(film.pixels).reduce(factor))
    spacing = film.spacing_mm and (film.spacing_mm[0] * factor, film.spacing_mm[1] * factor)
    return Film(small, spacing, film.source)
