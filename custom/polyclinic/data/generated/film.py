"""Invented chest films: DICOM as a PACS exports it, or PNG."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    RLELossless,
)

Grey = npt.NDArray[np.float64]

SIDE = 96
# Of invented files only; the root is that of UUID-derived UIDs.
UID_ROOT = "2.25."
BITS = 12


@dataclass(frozen=True)
class Card:
    """What a film's header says of its invented patient.

    Attributes:
        age: as DICOM writes it, ``061Y``; "" when not recorded.
        sex: F, M or "".
        view: AP or PA.
    """

    pseudonym: str
    age: str = ""
    sex: str = ""
    view: str = "PA"


def film_pixels(trait: float, rng: np.random.Generator) -> Grey:
    """A chest in [0, 1], (SIDE, SIDE), bone bright; ``trait`` is how dense the lower lungs are."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    image = 0.75 - 0.25 * (np.abs(x) > 0.85)
    for side in (-1.0, 1.0):
        shift = 0.05 * rng.standard_normal(2)
        lung = ((x - 0.42 * side - shift[0]) / 0.3) ** 2 + ((y - shift[1]) / 0.62) ** 2 < 1
        image = np.where(lung, 0.25, image)
        spot = np.exp(-(((x - 0.42 * side) / 0.2) ** 2) - ((y - 0.3) / 0.22) ** 2)
        image = image + lung * spot * 0.12 * np.clip(trait + 2.0, 0.0, 4.0)
    heart = ((x - 0.12) / 0.28) ** 2 + ((y - 0.35) / 0.3) ** 2 < 1
    image = np.where(heart, 0.7, image) + 0.1 * (np.sin(14 * y) > 0.8) * (np.abs(x) < 0.75)
    film: Grey = np.clip(image + 0.03 * rng.standard_normal(image.shape), 0.0, 1.0)
    return film


def write_dicom(path: Path, pixels: Grey, card: Card, number: int, *, style: str = "plain") -> None:
    """One film as DICOM.

    Args:
        number: of the file, from which its invented identifiers are made.
        style: ``plain``; ``inverted`` (MONOCHROME1 with a window); ``rle`` (compressed);
            ``burned`` (says that text is burned in).
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = f"{UID_ROOT}{9_000_000 + number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    ds.StudyInstanceUID = f"{UID_ROOT}{5_000_000 + number}"
    ds.SeriesInstanceUID = f"{UID_ROOT}{7_000_000 + number}"
    ds.Modality, ds.PatientID, ds.PatientName = "CR", card.pseudonym, "INVENTED^PATIENT"
    ds.PatientAge, ds.PatientSex, ds.ViewPosition = card.age, card.sex, card.view
    ds.BurnedInAnnotation = "YES" if style == "burned" else "NO"
    values = np.round(pixels * (2**BITS - 1)).astype("<u2")
    if style == "inverted":
        values = (2**BITS - 1 - values).astype("<u2")
        ds.WindowCenter, ds.WindowWidth = str(2 ** (BITS - 1)), str(2**BITS)
    ds.PhotometricInterpretation = "MONOCHROME1" if style == "inverted" else "MONOCHROME2"
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.Rows, ds.Columns = values.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, BITS, BITS - 1
    ds.ImagerPixelSpacing = ["4.0", "4.0"]
    ds.PixelData = values.tobytes()
    if style == "rle":
        ds.compress(RLELossless)
    ds.save_as(path, enforce_file_format=True)


def write_png(path: Path, pixels: Grey) -> None:
    """One film as an 8-bit PNG."""
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(path)
