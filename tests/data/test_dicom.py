"""DICOM files up to their pixels."""

import struct
import zlib
from pathlib import Path

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from film_files import NATIVE, encoded, film, pattern
from polyclinic.data.dicom import HEAD_BYTES, MAX_HEADER_BYTES, header_text, read_header
from polyclinic.errors import DataRejected
from rss import growth_mib


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "film.dcm"


def refusal(path: Path) -> str:
    with pytest.raises(DataRejected) as refused:
        read_header(path)
    return refused.value.reason


@pytest.mark.parametrize("syntax", NATIVE)
def test_a_header_is_read_in_every_uncompressed_syntax(path: Path, syntax: str) -> None:
    data = film(pattern(), PatientAge="045Y", PatientSex="F", ViewPosition="PA")
    path.write_bytes(encoded(data, syntax))
    header = read_header(path)
    texts = [
        header_text(header, k) for k in ("PatientAge", "PatientSex", "ViewPosition", "Modality")
    ]
    assert texts == ["045Y", "F", "PA", "DX"]
    assert "PixelData" not in header


def test_a_header_needs_no_pixels(path: Path) -> None:
    path.write_bytes(encoded(film(pattern(), ViewPosition="AP"))[:-1000])
    assert header_text(read_header(path), "ViewPosition") == "AP"


def test_a_header_longer_than_the_first_read_is_read_whole(path: Path) -> None:
    data = film(pattern(), ViewPosition="AP")
    data.add_new(0x00091001, "OB", bytes(2 * HEAD_BYTES))
    data.add_new(0x00090010, "LO", "OURS")
    path.write_bytes(encoded(data))
    assert header_text(read_header(path), "ViewPosition") == "AP"


def test_a_header_without_pixels_is_read(path: Path) -> None:
    path.write_bytes(encoded(film(pattern(), PixelData=None)))
    assert header_text(read_header(path), "Modality") == "DX"


def test_a_header_of_more_than_8_mib_is_refused(path: Path) -> None:
    data = film(pattern())
    data.add_new(0x00091001, "OB", bytes(MAX_HEADER_BYTES + 2 * HEAD_BYTES))
    path.write_bytes(encoded(data))
    assert refusal(path) in {"too_large", "unreadable"}


def test_a_header_that_ends_inside_an_element_is_refused(path: Path) -> None:
    whole = encoded(film(pattern(), PixelData=None, PatientComments="x" * 100))
    path.write_bytes(whole[:-43])
    assert refusal(path) == "unreadable"


def test_a_header_that_ends_inside_a_sequence_is_refused(path: Path) -> None:
    item = Dataset()
    item.CodeMeaning = "chest" * 10
    data = film(pattern(), PixelData=None)
    data.ViewCodeSequence = Sequence([item])
    data["ViewCodeSequence"].is_undefined_length = True
    whole = encoded(data)
    place = whole.index(b"chest")
    path.write_bytes(whole[: place + 5])
    assert refusal(path) == "unreadable"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "not_an_image"), (b"plain text" * 50, "not_an_image"), (None, "missing_file")],
)
def test_what_is_no_dicom_file_is_refused(path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        path.write_bytes(content)
    assert refusal(path) == reason


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "unreadable"


def test_text_of_an_element_is_empty_when_absent_or_broken(path: Path) -> None:
    path.write_bytes(
        encoded(film(pattern(), PatientName="A^B", ViewCodeSequence=Sequence([Dataset()])))
    )
    header = read_header(path)
    # Three bytes are no number of two bytes each.
    header[0x00280034] = RawDataElement(BaseTag(0x00280034), "US", 3, b"abc", 0, False, True)
    assert header_text(header, "PixelAspectRatio") == ""
    assert header_text(header, "PatientAge") == ""
    assert header_text(header, "NoSuchKeyword") == ""
    assert header_text(header, "PatientName") == "A^B"
    assert header_text(header, "ViewCodeSequence") == ""


def test_several_values_are_joined_by_a_backslash(path: Path) -> None:
    path.write_bytes(encoded(film(pattern(), ImageType=["ORIGINAL", "PRIMARY"])))
    assert header_text(read_header(path), "ImageType") == "ORIGINAL\\PRIMARY"


def _bomb(path: Path, mebibytes: int) -> None:
    """A deflated film whose pixels inflate to so many MiB of zeros."""
    head = encoded(film(pattern(), PixelData=None), DeflatedExplicitVRLittleEndian)
    start = head.index(b"1.2.840.10008.1.2.1.99") + 22
    meta, elements = _split(head, start)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packer.compress(elements + b"\xe0\x7f\x10\x00OW\0\0")]
    parts.append(packer.compress((mebibytes << 20).to_bytes(4, "little")))
    parts += [packer.compress(bytes(1 << 20)) for _ in range(mebibytes)]
    path.write_bytes(meta + b"".join(parts) + packer.flush())


def _split(data: bytes, start: int) -> tuple[bytes, bytes]:
    """The meta header, and the inflated elements behind it."""
    for place in range(start, start + 200):
        try:
            elements = zlib.decompress(data[place:], -zlib.MAX_WBITS)
        except zlib.error:
            continue
        if elements[:2] == b"\x08\x00":
            return data[:place], elements
    raise AssertionError


def test_b07_a_deflated_bomb_is_refused_before_it_is_inflated(path: Path) -> None:
    _bomb(path, 234)
    assert path.stat().st_size < 400_000
    said, growth = growth_mib("from polyclinic.data.film import read_film as read", path)
    assert said == "too_large"
    # 64 MiB of output; zlib collects it in blocks and joins them.
    assert growth < 140
    # The header is in the first megabytes, and asks for no more.
    said, growth = growth_mib("from polyclinic.data.dicom import read_header as read", path)
    assert said == "read"
    assert growth < 40


def test_deflated_films_of_an_ordinary_size_are_read(path: Path) -> None:
    path.write_bytes(encoded(film(pattern()), DeflatedExplicitVRLittleEndian))
    assert header_text(read_header(path), "Modality") == "DX"
    path.write_bytes(encoded(film(pattern()), ExplicitVRLittleEndian))
    assert header_text(read_header(path), "Modality") == "DX"


def test_millions_of_empty_elements_are_refused_before_they_are_all_read(path: Path) -> None:
    # A private element takes 8 bytes and some 200 in memory; deflated, a million take 1.5 MB.
    places = (struct.pack("<HH", 0x11 + 2 * (n >> 16), n & 0xFFFF) for n in range(250_000))
    data = film(pattern())
    del data.PixelData
    path.write_bytes(encoded(data) + b"".join(place + b"LO\0\0" for place in places))
    assert refusal(path) == "too_large"
