"""Tiny DICOM films in every transfer syntax that is read, for tests."""

import base64
import io
import tempfile
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
BY_GDCM = {
    RLELossless: gdcm.TransferSyntax.RLELossless,
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGExtended12Bit: gdcm.TransferSyntax.JPEGExtendedProcess2_4,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    JPEG2000: gdcm.TransferSyntax.JPEG2000,
}
# (16, 12) of 12 bits, compressed once with OpenJPH 0.26: no package that we require writes HTJ2K.
HTJ2K_PIXELS = np.add.outer(np.arange(16) * 100, np.arange(12) * 7).astype(np.uint16)
HTJ2K_STREAM = base64.b64decode(
    "/0//UQApQAAAAAAMAAAAEAAAAAAAAAAAAAAADAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUE"
    "BEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAHEAAf+TwAAm"
    "M/wFB3QAAMAAEsAAEoD2AId0ACICh3QAwAARwAATgBtzAI47/gCDVADAABPAABUg3t2Bfst1AMCBgcAYwIy2AMAA"
    "KqAAFeAkSZLep6enQncAxkaj0Wj8/AAQ9iEB7LkA/9k="
)


def pattern(rows: int = 32, columns: int = 40, bits: int = 12) -> np.ndarray:
    """Smooth pixels with some noise, (rows, columns), of all values that the bits have."""
    top = (1 << bits) - 1
    ramp = np.add.outer(np.linspace(0, 0.6, rows), np.linspace(0, 0.3, columns))
    noise = np.random.default_rng(7).random((rows, columns)) * 0.1
    pixels = np.rint((ramp + noise) * top)
    pixels[0, 0], pixels[-1, -1] = 0, top
    return pixels.astype(np.uint16 if bits > 8 else np.uint8)


def film(pixels: np.ndarray, bits: int = 12, **elements: Any) -> Dataset:
    """A grey or colour film of explicit little-endian syntax; ``None`` removes an element."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = "1.2.826.0.1.3680043.2.1.1"
    data.Modality = "DX"
    data.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    value = pixels.tobytes()
    data.PixelData = value + b"\0" * (len(value) % 2)
    data["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    for keyword, element in elements.items():
        if element is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, element)
    return data


def encoded(data: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The file of a native film, in another transfer syntax if asked for."""
    if syntax in BY_GDCM:
        return _by_gdcm(data, BY_GDCM[syntax])
    little = syntax != ExplicitVRBigEndian
    if syntax == JPEGLSNearLossless:
        data.compress(syntax, jls_error=2)
    elif syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(data.pixel_array).save(buffer, "JPEG", quality=95)
        _replace(data, buffer.getvalue(), syntax)
    elif syntax == HTJ2KLossless:
        _replace(data, HTJ2K_STREAM, syntax)
    elif not little and data.BitsAllocated == 16:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").byteswap().tobytes()
    data.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    implicit = syntax == ImplicitVRLittleEndian
    dcmwrite(file, data, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return file.getvalue()


def _replace(data: Dataset, stream: bytes, syntax: UID) -> None:
    data.PixelData = encapsulate([stream])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax


def _by_gdcm(data: Dataset, syntax: int) -> bytes:
    """The same file, compressed by GDCM, which reads and writes files only."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.dcm"), Path(folder, "after.dcm")
        before.write_bytes(encoded(data))
        reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(before))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(after))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        # As pydicom writes it: GDCM puts its own name into the meta header.
        file = io.BytesIO()
        dcmwrite(file, dcmread(after), enforce_file_format=True)
        return file.getvalue()
