"""Stored pixels and their description."""

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from film_files import encoded, film, pattern
from polyclinic.data.dicom import Opened, parse
from polyclinic.data.flaw import Flaw
from polyclinic.data.pixels import bit_patterns, read_layout, spacing_mm, stored_pixels

LIMIT = 1 << 20


def opened(pixels: np.ndarray, bits: int = 12, syntax: str = "", **elements: object) -> Opened:
    data = film(pixels, bits, **elements)
    return parse(encoded(data, syntax or ExplicitVRLittleEndian), LIMIT)


def stored(file: Opened) -> np.ndarray:
    return stored_pixels(file, read_layout(file.header, file.syntax))[0]


def refusal(file: Opened) -> str:
    with pytest.raises(Flaw) as flaw:
        stored(file)
    return flaw.value.reason


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("bits", [8, 12])
def test_uncompressed_pixels_are_what_was_written(syntax: str, bits: int) -> None:
    pixels = pattern(bits=bits)
    assert np.array_equal(stored(opened(pixels, bits, syntax)), pixels)


def test_little_endian_pixels_are_a_view_of_the_file() -> None:
    assert not stored(opened(pattern())).flags.owndata


def test_colours_in_planes_and_side_by_side_are_the_same() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    side = opened(pixels, 8)
    apart = opened(pixels, 8, PlanarConfiguration=1, PixelData=planes.tobytes())
    assert np.array_equal(stored(side), pixels)
    assert np.array_equal(stored(apart), pixels)


def test_ybr_full_422_gives_the_y_of_each_pixel() -> None:
    # Two pixels: Y Y Cb Cr (PS3.3 C.7.6.3.1.2).
    row = bytes([10, 20, 128, 128, 30, 40, 128, 128])
    colour = np.zeros((1, 4, 3), np.uint8)
    file = opened(colour, 8, PhotometricInterpretation="YBR_FULL_422", PixelData=row)
    assert stored(file)[..., 0].tolist() == [[10, 20, 30, 40]]


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PhotometricInterpretation": "RGB"}, "unsupported_photometric"),
        ({"PhotometricInterpretation": "PUDDLE"}, "unsupported_photometric"),
        ({"PhotometricInterpretation": None}, "unsupported_photometric"),
        ({"SamplesPerPixel": 3}, "unsupported_photometric"),
        ({"BitsStored": 17}, "bad_header"),
        ({"BitsStored": 0}, "bad_header"),
        ({"BitsAllocated": 32}, "bad_header"),
        ({"HighBit": 14}, "bad_header"),
        ({"PixelRepresentation": 2}, "bad_header"),
        ({"Rows": None}, "bad_header"),
        ({"Columns": [3, 4]}, "bad_header"),
    ],
)
def test_b04_a_description_that_contradicts_itself_is_refused(
    elements: dict[str, object], reason: str
) -> None:
    assert refusal(opened(pattern(), **elements)) == reason


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfFrames": 5}, "multi_frame"),
        ({"NumberOfFrames": 1_000_000_000}, "multi_frame"),
        ({"NumberOfFrames": 0}, "multi_frame"),
        ({"Rows": 65535, "Columns": 65535}, "too_large"),
        ({"Rows": 0}, "bad_header"),
        ({"Columns": 0}, "bad_header"),
        ({"Rows": 65535}, "unreadable"),
        ({"Columns": 39}, "bad_header"),
        ({"Columns": 41}, "unreadable"),
    ],
)
def test_b05_sizes_that_the_pixels_do_not_have_are_refused(
    elements: dict[str, object], reason: str
) -> None:
    assert refusal(opened(pattern(), **elements)) == reason


def test_a_film_without_pixels_is_refused() -> None:
    assert refusal(opened(pattern(), PixelData=None)) == "no_pixels"
    assert refusal(opened(pattern(), PixelData=b"")) == "no_pixels"


def test_zeros_behind_the_pixels_are_padding_and_anything_else_is_not() -> None:
    pixels = pattern()
    assert np.array_equal(stored(opened(pixels, PixelData=pixels.tobytes() + bytes(64))), pixels)
    assert refusal(opened(pixels, PixelData=pixels.tobytes() + b"\1\0")) == "bad_header"


def test_float_pixels_are_refused() -> None:
    data = film(pattern(), PixelData=None)
    data.FloatPixelData = np.zeros(1280, np.float32).tobytes()
    with pytest.raises(Flaw, match="bad_header"):
        parse(encoded(data), LIMIT)


def patterns(pixels: np.ndarray, bits: int, **elements: object) -> np.ndarray:
    file = opened(pixels, bits, **elements)
    layout = read_layout(file.header, file.syntax)
    return bit_patterns(stored_pixels(file, layout)[0], layout)


def test_signed_pixels_are_read_with_and_without_their_extended_sign() -> None:
    values = np.array([[-3, -1, 0, 5]], np.int16)
    cut = (values.view(np.uint16) & 0xFFF).view(np.int16)
    expected = [[0xFFD, 0xFFF, 0, 5]]
    assert patterns(values, 12).tolist() == expected
    assert patterns(cut, 12).tolist() == expected


def test_values_beyond_the_stored_bits_are_refused_unless_they_are_overlays() -> None:
    pixels = np.array([[1, 0x1002]], np.uint16)
    with pytest.raises(Flaw, match="bad_header"):
        patterns(pixels, 12)
    data = film(pixels)
    data.add_new(0x60000102, "US", 12)
    file = parse(encoded(data), LIMIT)
    layout = read_layout(file.header, file.syntax)
    assert bit_patterns(stored(file), layout).tolist() == [[1, 2]]


def test_spacing_is_the_calibrated_one_and_none_when_it_is_no_size() -> None:
    data = film(pattern(), ImagerPixelSpacing=[0.2, 0.3])
    assert spacing_mm(data) == (0.2, 0.3)
    data.PixelSpacing = [0.18, 0.27]
    assert spacing_mm(data) == (0.18, 0.27)
    assert spacing_mm(film(pattern(), PixelSpacing=[0, 1])) is None
    assert spacing_mm(film(pattern(), PixelSpacing=[1])) is None
    assert spacing_mm(film(pattern())) is None
