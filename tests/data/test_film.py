"""Films from files."""

import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, RLELossless

from film_files import encoded, film, pattern
from polyclinic.data.dicom import MAX_FILE_BYTES
from polyclinic.data.film import read_film
from polyclinic.data.quarantine import REASONS, file_hash
from polyclinic.errors import DataRejected
from rss import growth_mib

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
CANARY = "CANARYFAMILY^GIVEN"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "film.dcm"


def refused(path: Path, **options: str) -> DataRejected:
    with pytest.raises(DataRejected) as error:
        read_film(path, **options)
    return error.value


def test_a_dicom_film_is_brightness_with_its_spacing(path: Path) -> None:
    path.write_bytes(encoded(film(pattern(), PixelSpacing=[0.2, 0.3], **WINDOW)))
    got = read_film(path)
    np.testing.assert_allclose(got.pixels, pattern() / 4095, atol=1e-7)
    assert got.pixels.dtype == np.float32
    assert got.spacing_mm == (0.2, 0.3)
    assert got.source == "dicom"


def test_a_film_of_8_bits_its_png_and_its_lossless_twins_are_equal(path: Path) -> None:
    pixels = pattern(bits=8)
    Image.fromarray(pixels).save(path, "PNG")
    png = read_film(path)
    assert (png.source, png.spacing_mm) == ("png", None)
    for syntax in (ExplicitVRBigEndian, RLELossless, JPEG2000Lossless):
        path.write_bytes(encoded(film(pixels, 8), syntax))
        np.testing.assert_allclose(read_film(path).pixels, png.pixels, atol=1e-7)
    Image.fromarray(pixels).save(path, "JPEG", quality=95)
    assert read_film(path).source == "jpeg"


@pytest.mark.parametrize("window", [WINDOW, {"WindowCenter": 700, "WindowWidth": 333}, {}])
def test_b03_monochrome1_equals_its_inverted_monochrome2_twin(
    path: Path, window: dict[str, int]
) -> None:
    path.write_bytes(encoded(film(pattern(), **window)))
    bright = read_film(path).pixels
    inverted = film(pattern(), PhotometricInterpretation="MONOCHROME1", **window)
    path.write_bytes(encoded(inverted))
    assert np.array_equal(read_film(path).pixels, 1 - bright)


def test_b03_a_film_is_the_same_from_a_scanner_of_either_kind(path: Path) -> None:
    path.write_bytes(encoded(film(pattern(), **WINDOW)))
    bright = read_film(path).pixels
    other = film(4095 - pattern(), PhotometricInterpretation="MONOCHROME1", **WINDOW)
    path.write_bytes(encoded(other))
    assert np.abs(read_film(path).pixels - bright).max() <= np.finfo(np.float32).eps


def test_burned_in_text_refuses_a_film_unless_the_site_accepts_it(path: Path) -> None:
    path.write_bytes(encoded(film(pattern(), BurnedInAnnotation="YES")))
    assert refused(path).reason == "burned_in"
    assert read_film(path, burned_in="accept").pixels.shape == (32, 40)
    for word in ("NO", None):
        data = film(pattern())
        if word:
            data.BurnedInAnnotation = word
        path.write_bytes(encoded(data))
        assert read_film(path).pixels.shape == (32, 40)


@pytest.mark.parametrize("word", ["YES", "Yes", "yes"])
def test_a_burned_in_flag_counts_in_any_case(path: Path, word: str) -> None:
    data = encoded(film(pattern(), BurnedInAnnotation="YES"))
    assert data.count(b"YES") == 1
    path.write_bytes(data.replace(b"YES", word.encode()))
    assert refused(path).reason == "burned_in"


@pytest.mark.parametrize("bits", [8, 12])
def test_one_brightness_is_no_film(path: Path, bits: int) -> None:
    path.write_bytes(encoded(film(np.full_like(pattern(bits=bits), 9), bits)))
    assert refused(path).reason == "constant_image"
    path.write_bytes(encoded(film(pattern(), WindowCenter=-9000, WindowWidth=10)))
    assert refused(path).reason == "constant_image"


def test_a_shrunk_film_is_the_mean_of_boxes(path: Path) -> None:
    pixels = pattern(64, 96)
    path.write_bytes(encoded(film(pixels, PixelSpacing=[0.2, 0.3], **WINDOW)))
    whole, small = read_film(path), read_film(path, shrink_to=16)
    boxes = whole.pixels.astype(float).reshape(16, 4, 24, 4).mean((1, 3))
    assert np.abs(small.pixels - boxes).max() < 1e-6
    assert small.spacing_mm == pytest.approx((0.8, 1.2))
    assert np.array_equal(read_film(path, shrink_to=40).pixels, whole.pixels)


def _broken() -> dict[str, bytes]:
    whole = encoded(film(pattern(), PatientName=CANARY, PatientID=CANARY))
    return {
        "empty": b"",
        "text": b"Patient report\n" * 40,
        "truncated header": whole[:400],
        "truncated pixels": whole[:-500],
        "preamble only": whole[:132],
        "no preamble": whole[132:],
    }


@pytest.mark.parametrize("case", _broken())
def test_b01_a_broken_file_is_refused_at_once(path: Path, case: str) -> None:
    path.write_bytes(_broken()[case])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        error = refused(path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) <= 0.05
    assert error.reason in REASONS
    assert error.file_hash == file_hash(path)


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.dcm").reason == "missing_file"
    assert refused(tmp_path).reason == "unreadable"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").reason == "unreadable"


def test_a_file_larger_than_the_limit_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    said, growth = growth_mib("from polyclinic.data.film import read_film as read", path)
    assert said == "too_large"
    assert growth < 10


@pytest.mark.parametrize(
    "elements",
    [
        {"NumberOfFrames": 1_000_000_000},
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 65535},
        {"Rows": 0},
    ],
)
def test_b05_impossible_sizes_take_no_memory(path: Path, elements: dict[str, int]) -> None:
    path.write_bytes(encoded(film(pattern(), **elements)))
    said, growth = growth_mib("from polyclinic.data.film import read_film as read", path)
    assert said in {"multi_frame", "too_large", "bad_header", "unreadable"}
    assert growth < 50


def _leaks() -> dict[str, bytes]:
    """Files that make pydicom warn, log or raise with the text of a tag."""
    name = {"PatientName": CANARY, "PatientID": CANARY, "PatientBirthDate": "19010203"}
    whole = encoded(film(pattern(), **name))
    frames = encoded(film(pattern(), NumberOfFrames=1, **name))
    return {
        **_broken(),
        "charset": encoded(film(pattern(), SpecificCharacterSet="ISO_IR 100", **name)).replace(
            b"ISO_IR 100", b"CANARY_SET"
        ),
        "number": frames.replace(b"IS\x02\x001 ", b"IS\x02\x00CA"),
        "window": encoded(film(pattern(), **name, WindowCenter=1, WindowWidth=1)).replace(
            b"DS\x02\x001 ", b"DS\x02\x00CA"
        ),
        "syntax": whole.replace(b"1.2.840.10008.1.2.1\0", CANARY.ljust(20).encode()),
        "photometric": whole.replace(b"MONOCHROME2", b"CANARYCOLOR"),
        "representation": whole.replace(b"PN", b"US", 1),
        "garbage": encoded(film(pattern(), **name), RLELossless)[:-300],
    }


@pytest.mark.parametrize("case", _leaks())
def test_no_text_of_a_broken_file_gets_out(
    path: Path,
    case: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    caplog.set_level(logging.DEBUG)
    path.write_bytes(_leaks()[case])
    error = None
    try:
        read_film(path)
    except DataRejected as refusal:
        error = refusal
    said = [str(error), repr(error), *map(str, vars(error).values())] if error else []
    assert error is None or (error.__cause__, error.__context__) == (None, None)
    captured = capfd.readouterr()
    said += [caplog.text, captured.out, captured.err, *(str(w.message) for w in recwarn)]
    for text in said:
        assert "CANARY" not in text
        assert "19010203" not in text
        assert str(path) not in text
    assert not caplog.records
    assert not recwarn.list


def test_pydicom_itself_would_have_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The control of the claim above: the same file, read by pydicom."""
    import pydicom

    caplog.set_level(logging.DEBUG)
    path.write_bytes(_leaks()["charset"])
    with pytest.warns(UserWarning, match="CANARY"):
        str(pydicom.dcmread(path).PatientName)
