import numpy as np
import pytest

from polyclinic.data.slide_picture import CONTOUR, GRID, heatmap, outline, ranks
from polyclinic.data.tissue import Overview

# 100 micrometres a pixel is enlarged 10 times: 10 micrometres a pixel of the picture.
VIEW = Overview(np.full((60, 100, 3), 200, np.uint8), 100.0)
CORNERS = np.array([[1000.0, 2000.0], [3000.0, 2000.0]])
EDGE = 1000.0


def test_a_small_slide_is_enlarged() -> None:
    mask = np.zeros((60, 100), bool)
    assert outline(VIEW, mask, np.zeros((0, 2)), EDGE).size == (1000, 600)


def test_tiles_and_contour_lie_where_they_are_on_the_slide() -> None:
    mask = np.zeros((60, 100), bool)
    mask[10:50, 5:60] = True
    pixels = np.asarray(outline(VIEW, mask, CORNERS, EDGE))
    # The first tile covers 100..199 by 200..299 of the picture.
    assert tuple(pixels[250, 100]) == tuple(pixels[250, 199]) == GRID
    assert tuple(pixels[200, 150]) == tuple(pixels[299, 150]) == GRID
    assert tuple(pixels[100, 300]) == tuple(pixels[499, 300]) == CONTOUR
    assert tuple(pixels[300, 50]) == tuple(pixels[300, 599]) == CONTOUR
    assert (pixels[250, 150] == 200).all()  # inside a tile: as it is
    assert (pixels[450, 300] > 200).all()  # in no tile: paled


def test_the_heatmap_colours_tiles_by_rank_and_leaves_the_rest() -> None:
    pixels = np.asarray(heatmap(VIEW, CORNERS, EDGE, np.array([1e-9, 1e-3]))).astype(int)
    low, high = pixels[250, 150], pixels[250, 350]
    assert low[2] > low[0]  # dark blue
    assert high[0] > high[2]  # yellow
    assert len(set(pixels[50, 50])) == 1


def test_ranks_share_ties_and_span_zero_to_one() -> None:
    """Places 0, 1, 2, 3 over 3; the tie has places 1 and 2."""
    np.testing.assert_allclose(ranks(np.array([5.0, 1.0, 3.0, 3.0])), [1.0, 0.0, 0.5, 0.5])
    assert ranks(np.array([0.3])).tolist() == [0.5]
    assert ranks(np.array([])).size == 0


@pytest.mark.parametrize("edge", [1.0, 1e6])
def test_tiles_smaller_than_a_pixel_or_larger_than_the_slide_are_drawn(edge) -> None:
    mask = np.ones((60, 100), bool)
    assert outline(VIEW, mask, CORNERS, edge).size == (1000, 600)
    assert heatmap(VIEW, CORNERS, edge, np.array([0.0, 1.0])).size == (1000, 600)
