"""A DICOM file as it lies in a hospital made into one without identities.

The pixels are copied in the transfer syntax they came in; deflated and big-endian files become
explicit little-endian, which changes no pixel. Only what is no pixel is taken out of their bytes:
comments of a coded image, bits above the stored ones (old overlays), and what follows the image.
"""

import io
from collections.abc import Callable

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID

from polyclinic.data.cache import Array
from polyclinic.data.dicom import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    MAX_INFLATED_BYTES,
    NATIVE,
    Opened,
    header_text,
    parse,
)
from polyclinic.data.flaw import Flaw
from polyclinic.data.quiet import quiet
from polyclinic.importing.codestream import clean_jpeg, clean_jpeg2000, clean_rle
from polyclinic.importing.deidentify import deidentify, text_is_likely

RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
_JPEG_FAMILY = frozenset(_JPEG + n for n in ("50", "51", "57", "70", "80", "81"))
_JPEG2000_FAMILY = frozenset(_JPEG + n for n in ("90", "91", "92", "93", "201", "202", "203"))
# As the hospital's own program names itself: nothing of the original's file meta is taken over.
IMPLEMENTATION = "2.25.329800735698586629295641978511506172918"
# Values in 16-bit words, whose order pydicom leaves as it is.
_WORDS = ("VOILUTSequence", "ModalityLUTSequence", "RedPaletteColorLookupTableData")
_NEEDED = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "SamplesPerPixel",
    "PhotometricInterpretation",
)


def clean_dicom(
    data: bytes, key: bytes, patient: str, *, burned_in: str = "refuse"
) -> tuple[bytes, Dataset]:
    """The bytes of a de-identified file, and the header they hold.

    Args:
        data: of the original file.
        patient: the pseudonym.
        burned_in: ``accept`` takes films over whose header says or suggests text in the pixels.

    Raises:
        Flaw: with a reason code.
        Exception: whatever pydicom raises on a damaged file.
    """
    with quiet():
        opened = parse(data, MAX_INFLATED_BYTES)
        _require_image(opened, burned_in)
        clean = deidentify(opened.header, key, patient)
        missing = [k for k in _NEEDED if k not in clean]
        if missing or "SOPClassUID" not in clean or "SOPInstanceUID" not in clean:
            raise Flaw("bad_header", "an image without what its pixels need")
        syntax = EXPLICIT_LITTLE if opened.syntax in (DEFLATED, EXPLICIT_BIG) else opened.syntax
        _put_pixels(clean, opened)
        _put_meta(clean, syntax)
        stream = io.BytesIO()
        dcmwrite(stream, clean, enforce_file_format=True)
    return stream.getvalue(), clean


def _require_image(opened: Opened, burned_in: str) -> None:
    """Pass one image of a known kind whose pixels hold no text.

    Raises:
        Flaw: it is not.
    """
    if opened.pixels is None:
        raise Flaw("no_pixels", "a file without Pixel Data")
    if UID(header_text(opened.header, "SOPClassUID")).type != "SOP Class":
        raise Flaw("not_an_image", "a kind of object that DICOM does not define")
    if header_text(opened.header, "NumberOfFrames") not in ("", "0", "1"):
        raise Flaw("multi_frame", "several frames, or no number of them")
    if burned_in != "accept" and text_is_likely(opened.header):
        raise Flaw("burned_in", "a header that says or suggests so")


def _put_pixels(clean: Dataset, opened: Opened) -> None:
    """Add Pixel Data, as native bytes or as one coded frame.

    Raises:
        Flaw: cut short, or coded in a way that cannot be cleaned.
    """
    pixels = opened.pixels if opened.pixels is not None else memoryview(b"")
    if opened.syntax in NATIVE:
        clean.add_new("PixelData", _vr(clean, opened.syntax), _native(clean, opened, pixels))
        return
    frame = next(generate_frames(bytes(pixels), number_of_frames=1), b"")
    cleaned = _coder(clean, opened.syntax)(frame)
    clean.add_new("PixelData", "OB", encapsulate([cleaned], has_bot=False))
    clean["PixelData"].is_undefined_length = True


def _vr(clean: Dataset, syntax: str) -> str:
    return "OB" if clean.BitsAllocated <= 8 and syntax != "1.2.840.10008.1.2" else "OW"


def _coder(clean: Dataset, syntax: str) -> Callable[[bytes], bytes]:
    """What cleans a frame of this transfer syntax."""

    def rle(frame: bytes) -> bytes:
        planes = clean.SamplesPerPixel * clean.BitsAllocated // 8
        return clean_rle(frame, clean.Rows * clean.Columns, planes)

    def jpeg(frame: bytes) -> bytes:
        return clean_jpeg(frame, turned="ignore")

    if syntax in _JPEG_FAMILY:
        return jpeg
    if syntax in _JPEG2000_FAMILY:
        return clean_jpeg2000
    if syntax == RLE:
        return rle
    raise Flaw("unsupported_syntax", "a transfer syntax that is not taken over")


def _native(clean: Dataset, opened: Opened, pixels: memoryview) -> bytes:
    """The image's own bytes, little-endian, without bits above the stored ones; of even length."""
    size: int = get_expected_length(clean)
    if len(pixels) < size:
        raise Flaw("unreadable", "fewer pixels than rows and columns say")
    raw = bytes(pixels[: size + size % 2])
    allocated = clean.BitsAllocated
    if opened.syntax == EXPLICIT_BIG:
        if allocated not in (8, 16) or any(k in clean for k in _WORDS):
            raise Flaw("unsupported_syntax", "big-endian data of this width")
        if allocated == 16 or opened.swapped:
            raw = np.frombuffer(raw, "<u2").byteswap().tobytes()
    stored = clean.BitsStored
    if allocated in (8, 16) and 0 < stored < allocated:
        if clean.get("HighBit", stored - 1) != stored - 1:
            raise Flaw("bad_header", "pixels that do not start at the lowest bit")
        whole, signed = ("<u1", "<i1") if allocated == 8 else ("<u2", "<i2")
        kind = signed if clean.get("PixelRepresentation") == 1 else whole
        spare = allocated - stored
        samples: Array = np.frombuffer(raw, kind)
        cut: Array = np.right_shift(np.left_shift(samples, spare), spare)
        raw = cut.tobytes()
    return raw[:size] + b"\0" * (size % 2)


def _put_meta(clean: Dataset, syntax: str) -> None:
    """A file meta group made anew, and a preamble of zeros."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "POLYCLINIC"
    clean.file_meta = meta
    clean.preamble = b"\0" * 128
