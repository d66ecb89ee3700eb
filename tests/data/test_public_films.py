"""The two public DICOM test corpora that pydicom brings: read, or refused with a code."""

import logging
from collections import Counter
from pathlib import Path

import data_store
import numpy as np
import pydicom.data
import pytest

from polyclinic.data.dicom import open_dicom
from polyclinic.data.film import read_film
from polyclinic.data.pixels import read_layout, stored_pixels
from polyclinic.data.quarantine import REASONS
from polyclinic.errors import DataRejected

# Films and their uncompressed twins; pydicom's README files say which belong together.
EXACT_TWINS = {
    "MR_small_RLE": "MR_small",
    "MR_small_jpeg_ls_lossless": "MR_small",
    "MR_small_jp2klossless": "MR_small",
    "MR_small_bigendian": "MR_small",
    "MR_small_implicit": "MR_small",
    "MR_small_padded": "MR_small",
    "693_J2KR": "693_UNCR",
    "MR2_J2KR": "MR2_UNCR",
    "RG1_J2KR": "RG1_UNCR",
    "RG1_J2KI": "RG1_UNCI",
    "RG3_J2KR": "RG3_UNCR",
    "US1_J2KR": "US1_UNCR",
    "OBXXXX1A_rle": "OBXXXX1A",
    "OBXXXX1A_expb": "OBXXXX1A",
    "SC_rgb_rle_16bit": "SC_rgb_16bit",
    "SC_rgb_expb_16bit": "SC_rgb_16bit",
    "SC_rgb_jpeg_gdcm": "SC_rgb",
    "SC_rgb_dcmtk_+eb+cr": "SC_rgb_dcmtk_ebcr_dcmd",
    "SC_rgb_gdcm_KY": "SC_rgb_gdcm2k_uncompressed",
    "SC_ybr_full_422_uncompressed": "SC_ybr_full_uncompressed",
    "color-pl": "color-px",
}
REFUSED = {
    "rtplan": "no_pixels",
    "test-SR": "no_pixels",
    "waveform_ecg": "no_pixels",
    "rtplan_truncated": "unreadable",
    "MR_truncated": "unreadable",
    "rtdose": "multi_frame",
    "emri_small_jpeg_ls_lossless": "multi_frame",
    "rtdose_1frame": "bad_header",
    "liver_1frame": "bad_header",
    "SC_rgb_32bit": "bad_header",
    "badVR": "bad_header",
    "gdcm-US-ALOKA-16": "unsupported_photometric",
    "no_meta": "not_an_image",
}


def _files() -> dict[str, Path]:
    """Every file of both corpora by its stem; files of one name count once."""
    folders = [Path(package.__file__).parent for package in (pydicom.data, data_store)]
    found = [p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p): p for p in found if p.suffix not in (".py", ".pyc")}


FILES = _files()
BY_STEM = {path.stem: path for path in FILES.values() if path.suffix == ".dcm"}


def test_every_file_is_read_or_refused_with_a_code(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    outcomes: Counter[str] = Counter()
    for path in FILES.values():
        try:
            film = read_film(path)
        except DataRejected as refused:
            outcomes[refused.reason] += 1
            continue
        outcomes["read"] += 1
        assert film.pixels.ndim == 2
        assert film.pixels.dtype == np.float32
        assert 0 <= film.pixels.min() < film.pixels.max() <= 1
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    print(dict(outcomes.most_common()))
    assert set(outcomes) <= {"read", *REASONS}
    assert sum(outcomes.values()) == len(FILES) >= 250
    # pydicom 3.0.2 and pydicom-data 1.0.0; 80 of the files are records without pixels.
    assert outcomes["read"] >= 120


@pytest.mark.parametrize("name", EXACT_TWINS)
def test_a_compressed_film_equals_its_uncompressed_twin(name: str) -> None:
    compressed, plain = BY_STEM[name], BY_STEM[EXACT_TWINS[name]]
    assert np.array_equal(read_film(compressed).pixels, read_film(plain).pixels)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_film_is_refused_with_its_code(name: str) -> None:
    with pytest.raises(DataRejected) as refused:
        read_film(BY_STEM[name])
    assert refused.value.reason == REFUSED[name]


def test_jpeg_of_12_bits_gives_the_reference_values() -> None:
    # pydicom's pixels_reference for JPGExtended.dcm: 244 at (420, 140) and 95 at (230, 120).
    opened = open_dicom(BY_STEM["JPGExtended"])
    pixels, _ = stored_pixels(opened, read_layout(opened.header, opened.syntax))
    assert (pixels[420, 140], pixels[230, 120]) == (244, 95)


def test_computed_radiographs_are_bright_where_bone_is() -> None:
    # RG1 is MONOCHROME1: its unexposed frame is 32 767 in the file, and dark on a light box.
    stored = pydicom.dcmread(BY_STEM["RG1_UNCR"]).pixel_array
    shown = read_film(BY_STEM["RG1_UNCR"]).pixels
    assert np.corrcoef(stored[::7, ::7].ravel(), shown[::7, ::7].ravel())[0, 1] < 0
