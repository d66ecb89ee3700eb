"""Where the tissue is: an overview of a slide, and a mask on it.

Otsu, "A threshold selection method from gray-level histograms", IEEE SMC 9(1), 1979, on the
saturation (HSV) of the overview: glass is grey, stained tissue is not. Two limits hold the
threshold in, since Otsu always finds one: on a slide full of tissue it would part pale from dark
tissue, on an empty one noise from noise.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

from polyclinic.data.slide_blocks import Pixels
from polyclinic.data.slide_image import SlideImage

Mask = npt.NDArray[np.bool_]

# Saturation in 0..255 (HSV). Glass lies below 12, below 22 in yellow light; weak eosin above 30.
LOWEST, HIGHEST = 15, 30
# Longest side of an overview in pixels, and its finest resolution.
OVERVIEW_PIXELS = 2048
OVERVIEW_MPP = 4.0
# Pixels of the slide that are read at once for the overview: 3 MiB, four times as wide as high.
PIECE_PIXELS = 1 << 20
# Smaller pieces are dust, smaller gaps are part of the tissue: about two and eight tiles of 112 µm.
SPECK_UM2 = 25_000.0
HOLE_UM2 = 100_000.0
# Rows that are compared at once: they stay in the processor's cache.
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Overview:
    """A slide small enough to look at.

    Attributes:
        pixels: (H, W, 3).
        mpp: micrometres per pixel of the overview.
    """

    pixels: Pixels
    mpp: float


def overview(slide: SlideImage, threads: int = 2) -> Overview:
    """The whole slide at most 2048 pixels long, read in pieces so that memory stays bounded.

    A slide without a pyramid is read once through; OpenSlide's own thumbnail would first lay
    level 0 out in memory as a whole.

    Raises:
        DataRejected: the file is damaged.
    """
    longest = max(slide.size) * slide.mpp
    mpp = max(OVERVIEW_MPP, longest / OVERVIEW_PIXELS, slide.mpp)
    level = slide.level_for(mpp)
    width, height = slide.sizes[level]
    factor = mpp / (slide.mpp * slide.downsamples[level])
    columns, rows = max(1, math.floor(width / factor)), max(1, math.floor(height / factor))
    out = np.empty((rows, columns, 3), np.uint8)
    high = max(1, int(math.sqrt(PIECE_PIXELS) / 2 / factor))
    wide = 4 * high
    strip = max(1, int(slide.strip(level, math.ceil(high * factor)) / factor) // wide) * wide

    def fill(corner: tuple[int, int]) -> None:
        left, top = corner
        across, down = min(wide, columns - left), min(high, rows - top)
        box = (left * factor, top * factor, (left + across) * factor, (top + down) * factor)
        out[top : top + down, left : left + across] = _shrunk(slide, level, box, across, down)

    pieces = [(left, top) for top in range(0, rows, high) for left in range(0, columns, wide)]
    pieces.sort(key=lambda piece: (piece[0] // strip, piece[1]))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, pieces))
    return Overview(out, mpp)


def _shrunk(
    slide: SlideImage, level: int, box: tuple[float, float, float, float], width: int, height: int
) -> Pixels:
    """A box of a level, in its pixels, as (height, width, 3): the mean over each new pixel."""
    x, y = math.floor(box[0]), math.floor(box[1])
    right = min(math.ceil(box[2]), slide.sizes[level][0])
    low = min(math.ceil(box[3]), slide.sizes[level][1])
    image = Image.fromarray(slide.read(level, x, y, right - x, low - y))
    inner = (box[0] - x, box[1] - y, min(box[2], right) - x, min(box[3], low) - y)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX, box=inner))


def tissue_mask(view: Overview) -> Mask:
    """Which pixels of the overview show tissue; (H, W).

    Pen marks are left out, together with the tissue under them; specks go and holes are filled.
    """
    pen = pen_marks(view)
    saturation = np.asarray(Image.fromarray(view.pixels).convert("HSV"))[..., 1]
    smooth = median5(saturation)
    threshold = otsu(smooth[~pen]) if not pen.all() else HIGHEST
    found = (smooth > min(max(threshold, LOWEST), HIGHEST)) & ~pen
    return _tidied(found, pen, view.mpp)


def median5(values: Pixels) -> Pixels:
    """The median of 5 x 5 pixels around each, edges repeated; (H, W), as scipy's ``median_filter``.

    Of 14 of the 25 neighbours neither the least nor the greatest can be the median: both go, the
    next neighbour comes in, and so on. Whole rows are compared at once, 20 times as fast as scipy.
    """
    height, width = values.shape
    wide = np.pad(values, 2, mode="edge")
    out = np.empty_like(values)
    for top in range(0, height, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, height - top)
        near = [wide[top + i : top + i + rows, j : j + width] for i in range(5) for j in range(5)]
        kept, coming = near[:14], near[14:]
        while len(kept) > 1:
            kept = _without_extremes(kept)
            if coming:
                kept.append(coming.pop())
        out[top : top + rows] = kept[0]
    return out


def _without_extremes(kept: list[Pixels]) -> list[Pixels]:
    """The same numbers without the least and the greatest at each place."""
    half = len(kept) // 2
    low = [np.minimum(a, b) for a, b in zip(kept[:half], kept[-half:], strict=True)]
    high = [np.maximum(a, b) for a, b in zip(kept[:half], kept[-half:], strict=True)]
    middle = kept[half:-half]
    if middle:  # one: it may be an extreme of either side
        low[0], one = np.minimum(low[0], middle[0]), np.maximum(low[0], middle[0])
        middle, high[0] = [np.minimum(one, high[0])], np.maximum(one, high[0])
    for i in range(1, half):
        low[0], low[i] = np.minimum(low[0], low[i]), np.maximum(low[0], low[i])
        high[0], high[i] = np.maximum(high[0], high[i]), np.minimum(high[0], high[i])
    return low[1:] + middle + high[1:]


def otsu(values: npt.NDArray[np.uint8]) -> int:
    """The threshold t that parts values <= t from those above with most variance between them.

    Eq. 18 of Otsu: sigma_B^2(t) = (mu_T omega(t) - mu(t))^2 / (omega(t) (1 - omega(t))).
    """
    share = np.bincount(values.ravel(), minlength=256) / max(1, values.size)
    below, mean = np.cumsum(share), np.cumsum(share * np.arange(256))
    spread = below * (1 - below)
    between = np.zeros(256)
    np.divide((mean[-1] * below - mean) ** 2, spread, out=between, where=spread > 1e-12)
    return int(np.argmax(between))


def pen_marks(view: Overview) -> Mask:
    """Pixels in the colours of felt pens and of no usual stain, in large pieces; (H, W).

    Green: green is the strongest channel. Blue: blue far above a red that is the weakest. Red:
    red alone is strong; eosin and blood keep more blue or less light. Black: no light at all.
    """
    wide = view.pixels.astype(np.int16)
    r, g, b = wide[..., 0], wide[..., 1], wide[..., 2]
    green = g - np.maximum(r, b) > 20
    blue = (b - r > 90) & (g >= r)
    red = (r > 150) & (r - np.maximum(g, b) > 110) & (np.abs(g - b) < 40)
    black = wide.max(axis=-1) < 60
    inked = ndimage.binary_opening(green | blue | red | black, iterations=1)
    # Dust and pigment are as dark as ink, but small.
    inked = _pieces(inked, SPECK_UM2 / view.mpp**2)
    # Ink thins out at its edge into colours that tissue has as well.
    return np.asarray(ndimage.binary_dilation(inked, iterations=3), dtype=np.bool_)


def _tidied(found: Mask, pen: Mask, mpp: float) -> Mask:
    """The mask without specks and holes; ink is no hole."""
    area = mpp * mpp
    kept = _pieces(ndimage.binary_closing(found, iterations=1) | found, SPECK_UM2 / area)
    inside = ndimage.binary_fill_holes(kept) & ~kept  # what reaches the edge is no hole
    holes = inside & ~_pieces(inside, HOLE_UM2 / area)
    return np.asarray((kept | holes) & ~pen, dtype=np.bool_)


def _pieces(mask: Mask, smallest: float) -> Mask:
    """The connected pieces of a mask that have at least ``smallest`` pixels."""
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= smallest
    large[0] = False
    return np.asarray(large[labels], dtype=np.bool_)
