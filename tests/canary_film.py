"""DICOM files in which every place that can hold a word holds one that must not come out."""

import io
from collections.abc import Iterator

import numpy as np
from pydicom import dcmwrite
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DX = "1.2.840.10008.5.1.4.1.1.1.1"
PATIENT = "KANARI-4711"
WORD = "KANARI"


def film(**attributes: object) -> Dataset:
    """A sound film of 8 x 6 pixels of 12 bits, without a word in it but the patient's id."""
    dataset = Dataset()
    dataset.SOPClassUID = DX
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["film"])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    dataset.PatientID = PATIENT
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 8, 6, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.add_new("PixelData", "OW", pixels().tobytes())
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def pixels() -> np.ndarray:
    """The film's pixels; (8, 6) uint16 below 4096."""
    return (np.arange(48, dtype="<u2").reshape(8, 6) * 85).astype("<u2")


def written(
    dataset: Dataset, syntax: str = ExplicitVRLittleEndian, *, preamble: bytes = b"\0" * 128
) -> bytes:
    """The file of a dataset."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", DX)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    for element in getattr(dataset, "file_meta", []):
        meta.add(element)
    dataset.file_meta, dataset.preamble = meta, preamble
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def canary(tag: int, number: int, charset: str = "ascii") -> tuple[DataElement, list[bytes]]:
    """An element that holds a canary of its own, and the bytes that must not be found again."""
    vr = dictionary_VR(tag).split(" or ")[0]
    special = {"ascii": "", "latin": "ÄÖ", "cyrillic": "Жб", "japanese": "山田"}[charset]
    word = f"{WORD}{number:04d}"
    text = {
        "DA": f"18{number % 90 + 10:02d}{number % 12 + 1:02d}{number % 28 + 1:02d}",
        "TM": f"235959.{number:06d}",
        "DT": f"18770203235959.{number:06d}",
        "UI": f"1.2.276.0.4711.{number}.1",
        "AS": "077Y",
        "DS": f"4711.{number:04d}",
        "IS": f"471100{number:04d}",
        "CS": word,
        "AE": word,
        "SH": word,
        "UR": f"https://{word}.example",
    }
    if vr == "SQ":
        item = Dataset()
        item.add_new(0x00080104, "LO", word)
        item.add_new(0x00100010, "PN", f"{word}^{special}")
        return DataElement(tag, vr, Sequence([item])), [word.encode()]
    if vr in ("OB", "UN", "OW"):
        return DataElement(tag, vr, word.encode()), [word.encode()]
    if vr in ("US", "UL"):
        return DataElement(tag, vr, number), []  # too short to be told from chance in raw bytes
    value = text.get(vr, word + special)
    return DataElement(tag, vr, value), [value.encode(), word.encode()]


def places() -> Iterator[tuple[str, int, str, bytes]]:
    """Where elements stand that no dictionary names: place, tag, VR and value."""
    yield "private creator", 0x00090010, "LO", b"KANARI PRIVATE"
    yield "private text", 0x00091001, "LO", b"KANARI-private-text"
    yield "private bytes", 0x00191002, "UN", b"KANARI-private-bytes"
    yield "curve", 0x50003000, "OW", b"KANARI-curve-data"
    yield "overlay", 0x60003000, "OW", b"KANARI-overlay-bits"
    yield "overlay label", 0x60001500, "LO", b"KANARI-overlay-label"
    yield "overlay of another group", 0x60024000, "LT", b"KANARI-overlay-comment"
    yield "unknown of a standard group", 0x00109999, "LT", b"KANARI-of-tomorrow"
    yield "odd group within patient", 0x00111010, "PN", b"KANARI^private"
    yield "trailing padding", 0xFFFCFFFC, "OB", b"KANARI-padding"
