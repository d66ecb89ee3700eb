"""From stored pixels to brightness."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from film_files import film, pattern
from polyclinic.data.flaw import Flaw
from polyclinic.data.photometric import luma, read_tone, windowed
from polyclinic.data.pixels import read_layout

EXPLICIT = "1.2.840.10008.1.2.1"
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def shown(pixels: np.ndarray, bits: int = 12, **elements: object) -> np.ndarray:
    """Brightness of the pixels of a film with these elements."""
    data = film(pixels, bits, **elements)
    data.set_original_encoding(False, True, None)
    tone = read_tone(data, read_layout(data, EXPLICIT))
    patterns = pixels.view(f"u{pixels.itemsize}") & ((1 << bits) - 1)
    return tone.table(patterns)[patterns]


def lut(entries: list[int], first: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = np.asarray(entries, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return Sequence([item])


def test_a_linear_window_is_the_formula_of_the_standard() -> None:
    # PS3.3 C.11.2.1.2: centre 2048, width 4096 leaves 0..4095 as they are.
    values = shown(RAMP, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(values, RAMP / 4095, atol=1e-7)


def test_a_window_clips_what_lies_outside() -> None:
    # Centre 11, width 3: x <= 10.5 - 1 is black, x > 10.5 + 1 is white, 10.5 is the middle.
    values = windowed(np.array([9.0, 9.5, 10.0, 10.5, 11.0, 11.5, 12.0]), 11, 3, "LINEAR")
    np.testing.assert_allclose(values, [0, 0, 0.25, 0.5, 0.75, 1, 1])


def test_a_window_of_width_1_is_a_threshold() -> None:
    assert windowed(np.array([9.0, 9.5, 9.6]), 10, 1, "LINEAR").tolist() == [0, 0, 1]


def test_linear_exact_and_sigmoid_are_their_formulas() -> None:
    values = np.array([0.0, 25.0, 50.0, 75.0, 100.0])
    np.testing.assert_allclose(windowed(values, 50, 100, "LINEAR_EXACT"), [0, 0.25, 0.5, 0.75, 1])
    expected = 1 / (1 + np.exp(-4 * (values - 50) / 100))
    np.testing.assert_allclose(windowed(values, 50, 100, "SIGMOID"), expected)


def test_a_sigmoid_far_outside_does_not_overflow() -> None:
    values = windowed(np.array([-1e9, 1e9]), 0, 1e-3, "SIGMOID")
    np.testing.assert_allclose(values, [0, 1], atol=1e-20)


@pytest.mark.parametrize(
    ("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (-3, "SIGMOID"), (9, "CUBIC")]
)
def test_a_window_that_cannot_be_applied_is_refused(width: float, function: str) -> None:
    with pytest.raises(Flaw) as flaw:
        shown(RAMP, WindowCenter=5, WindowWidth=width, VOILUTFunction=function)
    assert flaw.value.reason == "bad_header"


def test_of_several_windows_the_first_is_taken() -> None:
    one = shown(RAMP, WindowCenter=1000, WindowWidth=500)
    several = shown(RAMP, WindowCenter=[1000, 40], WindowWidth=[500, 80])
    assert np.array_equal(one, several)


def test_the_window_is_applied_after_the_rescale() -> None:
    # Stored 1024 means 0, the centre of a window from -100.5 to 99.5.
    values = shown(RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=0.5, WindowWidth=201)
    assert values.flat[1024] == 0.5
    assert values.flat[900] == 0
    assert values.flat[1200] == 1


def test_a_slope_below_zero_inverts() -> None:
    values = shown(
        RAMP, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096
    )
    np.testing.assert_allclose(values, 1 - RAMP / 4095, atol=1e-7)


def test_a_slope_of_zero_is_refused() -> None:
    with pytest.raises(Flaw, match="bad_header"):
        shown(RAMP, RescaleSlope=0, RescaleIntercept=0)


def test_a_modality_lut_stands_in_for_the_rescale() -> None:
    # Entries for the stored values 10, 11, 12; those outside take the ends.
    table = lut([100, 300, 200], first=10, bits=16)
    pixels = np.array([[0, 10, 11, 12, 4095]], np.uint16)
    values = shown(pixels, ModalityLUTSequence=table, WindowCenter=200.5, WindowWidth=201)
    np.testing.assert_allclose(values, [[0, 0, 1, 0.5, 0.5]])


def test_a_voi_lut_goes_before_a_window() -> None:
    table = lut([0, 255, 51], first=2, bits=8)
    pixels = np.array([[1, 2, 3, 4, 5]], np.uint16)
    values = shown(pixels, VOILUTSequence=table, WindowCenter=1, WindowWidth=2)
    np.testing.assert_allclose(values, [[0, 0, 1, 0.2, 0.2]], atol=1e-7)


def test_a_voi_lut_that_claims_more_bits_than_it_uses_is_not_darkened() -> None:
    table = lut([0, 1000, 4095], first=0, bits=16)
    assert shown(np.array([[0, 1, 2]], np.uint16), VOILUTSequence=table).max() == 1


@pytest.mark.parametrize("entries", [0, 7])
def test_a_lut_shorter_than_it_says_is_refused(entries: int) -> None:
    table = lut([1, 2, 3], first=0, bits=16)
    table[0].LUTDescriptor = [entries, 0, 16]
    with pytest.raises(Flaw, match="bad_header"):
        shown(RAMP, VOILUTSequence=table)


def test_8_bits_without_a_window_keep_their_full_range() -> None:
    pixels = np.array([[20, 100, 200]], np.uint8)
    np.testing.assert_allclose(shown(pixels, 8), pixels / 255, atol=1e-7)


def test_12_bits_without_a_window_are_stretched_between_percentiles() -> None:
    pixels = np.full((100, 100), 1000, np.uint16)
    pixels[:50] = 2000
    # 40 of 10 000 are below the half percent that a marker or an edge may take.
    pixels[0, :40] = 4095
    values = shown(pixels)
    assert values[0, 0] == 1
    assert values[10, 0] == 1
    assert values[99, 0] == 0


def test_padding_is_black_and_counts_in_no_percentile() -> None:
    pixels = np.full((10, 10), 4000, np.uint16)
    pixels[:5] = 1000
    pixels[:3] = 0
    with_padding = shown(pixels, PixelPaddingValue=0)
    assert with_padding[0, 0] == 0
    assert with_padding[4, 0] == 0
    assert with_padding[9, 0] == 1
    inverted = shown(pixels, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
    assert inverted[0, 0] == 0
    assert inverted[4, 0] == 1
    pixels[9] = 3000
    between = shown(pixels, PixelPaddingValue=0, PixelPaddingRangeLimit=1500)
    assert between[4, 0] == 0
    assert between[8, 0] == 1
    assert between[9, 0] == 0


def test_a_film_of_padding_alone_is_constant() -> None:
    with pytest.raises(Flaw, match="constant_image"):
        shown(np.zeros((4, 4), np.uint16), PixelPaddingValue=0)


def test_signed_pixels_are_ordered_by_their_value() -> None:
    pixels = np.array([[-2048, -1, 0, 2047]], np.int16)
    values = shown(pixels, WindowCenter=0, WindowWidth=4096)
    np.testing.assert_allclose(values, (pixels + 2048.0) / 4095, atol=1e-7)


def test_monochrome1_and_an_inverse_presentation_lut_invert_once() -> None:
    plain = shown(RAMP, WindowCenter=2048, WindowWidth=4096)
    for elements in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ):
        turned = shown(RAMP, WindowCenter=2048, WindowWidth=4096, **elements)
        np.testing.assert_allclose(turned, 1 - plain, atol=1e-7)


def test_a_palette_becomes_luma() -> None:
    data = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in (("Red", [0, 255, 0]), ("Green", [0, 0, 255]), ("Blue", [0, 0, 0])):
        data[f"{name}PaletteColorLookupTableDescriptor"] = [3, 0, 8]
        data[f"{name}PaletteColorLookupTableData"] = np.asarray([*entries, 0], "u1").tobytes()
    values = shown(np.array([[0, 1, 2]], np.uint8), 8, **data)
    np.testing.assert_allclose(values, [[0, 0.299, 0.587]], atol=1e-6)


def test_luma_weighs_colours_and_takes_the_y_of_ybr() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(luma(pixels, "RGB", 8), [[0.299, 0.587, 0.114, 1]], atol=1e-6)
    np.testing.assert_allclose(luma(pixels, "YBR_FULL", 8), [[1, 0, 0, 1]])


def test_a_grey_film_of_8_bits_in_colour_equals_the_grey_one() -> None:
    grey = pattern(bits=8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_allclose(luma(colour, "RGB", 8), shown(grey, 8), atol=1e-6)
