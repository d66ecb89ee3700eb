import random
import time
import zlib
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from polyclinic.importing.slide_files import DICOM_SLIDE, find_slides


def dicom(path: Path, series: str, kind: str = "VOLUME", sop: str = DICOM_SLIDE) -> None:
    """The header of one file of a DICOM slide."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop, f"{series}.{path.stem[-1]}"
    dataset.SeriesInstanceUID, dataset.ImageType = series, ["ORIGINAL", "PRIMARY", kind, "NONE"]
    path.parent.mkdir(exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def test_the_files_of_a_dicom_series_are_one_slide_and_its_label_none(tmp_path) -> None:
    for i, kind in enumerate(("LABEL", "OVERVIEW", "VOLUME", "VOLUME")):
        dicom(tmp_path / "case-1" / f"{i}.dcm", "1.2.3", kind)
    dicom(tmp_path / "case-1" / "film5.dcm", "1.2.9", sop="1.2.840.10008.5.1.4.1.1.1.1")
    (found,) = find_slides(tmp_path)
    assert (found.path.name, found.name) == ("2.dcm", "case-1")


def test_two_series_in_a_folder_are_two_slides(tmp_path) -> None:
    for series in (1, 2):
        dicom(tmp_path / "case" / f"a{series}.dcm", f"1.2.{series}")
    assert [s.name for s in find_slides(tmp_path)] == ["a1", "a2"]


@pytest.mark.filterwarnings("error")
def test_a_dicom_file_that_cannot_be_read_stands_for_itself(tmp_path) -> None:
    (tmp_path / "bad.dcm").write_bytes(b"DICM" * 100)
    assert [s.name for s in find_slides(tmp_path)] == ["bad"]


def test_links_are_not_followed(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.svs").write_bytes(b"x")
    (tmp_path / "out.svs").write_bytes(b"x")
    (tmp_path / "in" / "link.svs").symlink_to(tmp_path / "out.svs")
    assert [s.name for s in find_slides(tmp_path / "in")] == ["a"]


def test_b07_a_deflated_bomb_among_slides_is_not_inflated(tmp_path) -> None:
    dicom(tmp_path / "case" / "a1.dcm", "1.2.3")
    syntax = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"
    packer = zlib.compressobj(9, wbits=-15)
    charge = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    (tmp_path / "bomb.dcm").write_bytes(bytes(128) + b"DICM" + syntax + charge)
    began = time.process_time()
    assert [s.name for s in find_slides(tmp_path)] == ["bomb", "case"]
    assert time.process_time() - began < 1.0  # inflating and parsing took 36 s


def test_damaged_headers_among_slides_stop_no_import(tmp_path) -> None:
    dicom(tmp_path / "sound1.dcm", "1.2.3")
    whole = (tmp_path / "sound1.dcm").read_bytes()
    draw = random.Random(3)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 12)):
            damaged[draw.randrange(132, len(damaged))] = draw.randrange(256)
        (tmp_path / "b.dcm").write_bytes(damaged[: draw.randint(140, len(damaged))])
        find_slides(tmp_path)  # raises nothing, whatever pydicom does
