"""Brightness of a PNG or JPEG film."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from polyclinic.data.flaw import Flaw
from polyclinic.data.photometric import luma
from polyclinic.data.pixels import MAX_PIXELS
from polyclinic.data.quiet import quiet

FORMATS = ("PNG", "JPEG")


def read_raster(data: bytes) -> npt.NDArray[np.float32]:
    """Brightness (rows, columns) in [0, 1]; turned as its EXIF orientation says.

    Colour becomes luma; what is transparent is black, as on a light box that is covered there.

    Raises:
        Flaw: larger than the bounds, several frames, or a mode that is not read.
        Exception: whatever Pillow raises on a damaged file.
    """
    with quiet():
        # Opening reads the header only: a bomb is refused before it is inflated.
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise Flaw("too_large", "more pixels than Pillow opens") from None
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Flaw("too_large", f"{height} x {width} pixels")
        if getattr(image, "n_frames", 1) != 1:
            raise Flaw("multi_frame", "another number of frames than 1")
        return _grey(ImageOps.exif_transpose(image))


def _grey(image: Image.Image) -> npt.NDArray[np.float32]:
    """Brightness of a decoded picture of any mode that PNG and JPEG have."""
    if image.mode in ("I;16", "I;16B", "I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise Flaw("bad_header", "pixel values of more than 16 bits")
        return pixels.astype(np.float32) / np.float32(0xFFFF)
    if image.mode == "1":
        return np.asarray(image.convert("L"), np.float32) / np.float32(255)
    if image.mode == "L" and "transparency" not in image.info:
        return np.asarray(image, np.float32) / np.float32(255)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return luma(np.asarray(image), "RGB", 8)
    if image.mode == "YCbCr":
        return luma(np.asarray(image), "YBR_FULL", 8)
    if image.mode not in ("L", "P", "PA", "LA", "RGB", "RGBA"):
        raise Flaw("unsupported_photometric", "a picture mode that is not read")
    pixels = np.asarray(image.convert("RGBA"))
    opacity = pixels[..., 3].astype(np.float32) / np.float32(255)
    return luma(pixels[..., :3], "RGB", 8) * opacity
