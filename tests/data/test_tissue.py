import numpy as np
import pytest
from scipy import ndimage

from polyclinic.data.slide_image import SlideImage
from polyclinic.data.tissue import Overview, median5, otsu, overview, pen_marks, tissue_mask
from slides import TISSUE, glass, with_tissue, write_slide

# Of the overviews below: 4 micrometres a pixel, so 100 x 100 pixels are 0.16 mm2.
MPP = 4.0


def mask_of(image: np.ndarray) -> np.ndarray:
    return tissue_mask(Overview(image, MPP))


def test_tissue_is_parted_from_glass() -> None:
    mask = mask_of(with_tissue(glass(400, 500), 100, 150, 200, 250))
    assert mask[110:290, 160:390].all()
    mask[98:302, 148:402] = False
    assert not mask.any()


def test_pale_tissue_is_found_beside_dark_tissue() -> None:
    image = with_tissue(glass(400, 500), 50, 50, 300, 150, (120, 60, 140))
    image = with_tissue(image, 50, 300, 300, 150, (235, 200, 222))
    mask = mask_of(image)
    assert mask[60:340, 60:190].all()
    assert mask[60:340, 310:440].all()


def test_a_slide_full_of_tissue_is_kept_whole() -> None:
    """Otsu alone would part pale from dark tissue."""
    image = with_tissue(glass(400, 500), 0, 0, 400, 250, (230, 180, 215))
    image = with_tissue(image, 0, 250, 400, 250, (140, 70, 150))
    assert mask_of(image).mean() > 0.99


def test_an_empty_slide_has_no_tissue() -> None:
    assert not mask_of(glass(400, 500)).any()


def test_specks_go_and_small_holes_are_filled_and_large_ones_stay() -> None:
    """A speck of 20 x 20 pixels is 6400 um2, a hole of 40 x 40 is 25 600, one of 120 x 120 is
    230 400; specks go below 25 000 and holes are filled below 100 000."""
    image = with_tissue(glass(500, 500), 50, 50, 400, 300)
    image = with_tissue(image, 10, 450, 20, 20)
    image[80:120, 80:120] = image[0, 0]
    image[200:320, 150:270] = image[0, 0]
    mask = mask_of(image)
    assert not mask[:40, 440:480].any()
    assert mask[80:120, 80:120].all()
    assert not mask[210:310, 160:260].any()


PENS = {
    "green": (30, 140, 70),
    "blue": (30, 60, 190),
    "red": (215, 40, 50),
    "black": (20, 20, 25),
}


@pytest.mark.parametrize("colour", PENS.values(), ids=PENS.keys())
def test_a_pen_mark_is_no_tissue_and_does_not_hide_any(colour) -> None:
    image = with_tissue(glass(400, 500), 100, 50, 200, 200)
    image = with_tissue(image, 50, 320, 300, 60, colour)
    mask = mask_of(image)
    assert mask[110:290, 60:240].all()
    assert not mask[:, 300:400].any()


STAINS = {
    "eosin": (225, 130, 165),
    "haematoxylin": (95, 60, 140),
    "blood": (190, 60, 85),
    "DAB": (120, 75, 45),
    "haematoxylin of an immunostain": (150, 165, 200),
}


@pytest.mark.parametrize("colour", STAINS.values(), ids=STAINS.keys())
def test_no_stain_is_taken_for_a_pen(colour) -> None:
    image = with_tissue(glass(400, 500), 100, 100, 200, 300, colour)
    assert not pen_marks(Overview(image, MPP)).any()
    assert mask_of(image)[110:290, 110:390].all()


def test_otsu_parts_two_groups_where_the_spread_between_them_is_largest() -> None:
    values = np.repeat(np.array([10, 12, 50, 60], np.uint8), [5, 5, 4, 4])
    # By definition, over all thresholds: w0 w1 (m0 - m1)^2.
    scores = {}
    for t in range(10, 60):
        low, high = values[values <= t].astype(float), values[values > t].astype(float)
        scores[t] = low.size * high.size * (low.mean() - high.mean()) ** 2
    assert scores[otsu(values)] == pytest.approx(max(scores.values()))
    assert 12 <= otsu(values) < 50


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (130, 67)])
def test_the_median_of_neighbours_is_that_of_scipy(shape) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = ndimage.median_filter(values, size=5, mode="nearest")
    np.testing.assert_array_equal(median5(values), expected)


def test_the_overview_is_the_mean_over_its_pixels(tmp_path) -> None:
    """0.5 micrometres brought to 4: the mean of 8 x 8 pixels."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (320, 480, 3)).astype(np.uint8)
    with SlideImage(write_slide(tmp_path / "s.svs", image)) as slide:
        view = overview(slide)
    expected = image.reshape(40, 8, 60, 8, 3).mean(axis=(1, 3))
    assert view.mpp == 4.0
    np.testing.assert_allclose(view.pixels, expected, atol=1)


def test_the_overview_does_not_depend_on_how_it_is_read(tmp_path, monkeypatch) -> None:
    image = with_tissue(glass(700, 900), 100, 100, 500, 600, TISSUE)
    with SlideImage(write_slide(tmp_path / "s.svs", image, 0.37)) as slide:
        whole = overview(slide)
        monkeypatch.setattr("polyclinic.data.tissue.PIECE_PIXELS", 10_000)
        strips = overview(slide)
    assert np.abs(whole.pixels.astype(int) - strips.pixels).max() <= 1
