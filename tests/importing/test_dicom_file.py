"""Films of every transfer syntax come through with the same pixels and without their comments."""

import io
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from film_files import BY_GDCM, HTJ2K_PIXELS, NATIVE, encoded, film, pattern
from polyclinic.data.film import read_film
from polyclinic.data.flaw import Flaw
from polyclinic.importing.dicom_file import clean_dicom

KEY = bytes(range(32))
SYNTAXES = sorted({*NATIVE, *BY_GDCM, JPEGBaseline8Bit, HTJ2KLossless, JPEGLSNearLossless})


def raw(syntax: UID) -> bytes:
    """A film in a transfer syntax."""
    if syntax == HTJ2KLossless:
        return encoded(film(HTJ2K_PIXELS), syntax)
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    return encoded(film(pattern(bits=bits), bits), syntax)


def pixels(data: bytes, folder: Path) -> np.ndarray:
    """What a site sees of a film."""
    (folder / "film.dcm").write_bytes(data)
    return read_film(folder / "film.dcm").pixels


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
def test_pixels_of_every_transfer_syntax_are_the_same(syntax: UID, tmp_path: Path) -> None:
    before = raw(syntax)
    after, _ = clean_dicom(before, KEY, "p")
    assert (pixels(after, tmp_path) == pixels(before, tmp_path)).all()
    kept = dcmread(io.BytesIO(after)).file_meta.TransferSyntaxUID
    assert kept == syntax or (kept == "1.2.840.10008.1.2.1" and syntax in NATIVE)


def commented(data: bytes) -> bytes:
    """The file with a comment in its coded image, after the first segment, and behind its end."""
    dataset = dcmread(io.BytesIO(data))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    if frame[:2] == b"\xff\xd8":
        comment, at = b"\xff\xfe\x00\x08KANARI", 2
    else:
        # Right after SIZ, which must come first.
        comment, at = b"\xff\x64\x00\x0a\x00\x01KANARI", 4 + int.from_bytes(frame[4:6], "big")
    spoiled = frame[:at] + comment + frame[at:] + b"KANARI"
    dataset.PixelData = encapsulate([spoiled])
    stream = io.BytesIO()
    dcmwrite(stream, dataset)
    return stream.getvalue() + b"KANARI-after-the-sequence"


CODED = [JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless]


@pytest.mark.parametrize("syntax", CODED, ids=lambda s: s.name)
def test_b09_comments_within_coded_pixels_are_taken_out(syntax: UID, tmp_path: Path) -> None:
    spoiled = commented(raw(syntax))
    assert spoiled.count(b"KANARI") == 3
    after, _ = clean_dicom(spoiled, KEY, "p")
    assert b"KANARI" not in after
    assert (pixels(after, tmp_path) == pixels(raw(syntax), tmp_path)).all()


def test_a_frame_cut_short_is_refused() -> None:
    dataset = dcmread(io.BytesIO(raw(JPEGLSLossless)))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    stream = io.BytesIO()
    dcmwrite(stream, dataset)
    with pytest.raises((Flaw, ValueError)):
        clean_dicom(stream.getvalue(), KEY, "p")


def test_a_syntax_that_cannot_be_cleaned_is_refused() -> None:
    dataset = dcmread(io.BytesIO(raw(RLELossless)))
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")  # MPEG-2
    stream = io.BytesIO()
    dcmwrite(stream, dataset)
    with pytest.raises(Flaw) as caught:
        clean_dicom(stream.getvalue(), KEY, "p")
    assert caught.value.reason == "unsupported_syntax"


def test_b09_bits_above_the_stored_ones_are_cut_also_where_the_header_does_not_place_them() -> None:
    dataset = film(pattern(bits=12), 12)
    words = np.frombuffer(dataset.PixelData, "<u2") | 0x5000  # an overlay of old scanners
    dataset.PixelData = words.astype("<u2").tobytes()
    del dataset.HighBit
    after, _ = clean_dicom(encoded(dataset), KEY, "p")
    found = np.frombuffer(dcmread(io.BytesIO(after)).PixelData, "<u2")
    assert (found == words & 0x0FFF).all()


@pytest.mark.parametrize("change", [{"HighBit": 15}, {"BitsStored": None}])
def test_b09_bits_that_may_be_a_drawing_refuse_the_file(change: dict[str, int | None]) -> None:
    dataset = film(pattern(bits=12), 12)
    for keyword, value in change.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    with pytest.raises(Flaw) as caught:
        clean_dicom(encoded(dataset), KEY, "p")
    assert caught.value.reason == "bad_header"
