"""Pictures of a slide to look at: where tissue was found and cut, and what a model looked at.

They show tissue and stay at the site; neither names nor the label of the glass are on them.
"""

import math

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage  # type: ignore[import-untyped]

from polyclinic.data.slide_blocks import Pixels
from polyclinic.data.tiles import Points
from polyclinic.data.tissue import Mask, Overview

CONTOUR = (0, 158, 115)
GRID = (0, 114, 178)
# Shortest longer side of a picture: small slides are shown enlarged.
SHOWN_PIXELS = 1000


def outline(view: Overview, mask: Mask, corners_um: Points, edge_um: float) -> Image.Image:
    """The overview with the contour of the tissue in green and the tiles in blue; what is in no
    tile is paled."""
    zoom = _zoom(view)
    pixels = _enlarged(view.pixels, zoom)
    boxes = _boxes(corners_um, edge_um, view.mpp / zoom)
    taken = Image.new("1", (pixels.shape[1], pixels.shape[0]))
    fill = ImageDraw.Draw(taken)
    for box in boxes:
        fill.rectangle(box, fill=1)
    paled = np.where(np.asarray(taken)[..., None], pixels, 160 + pixels // 8 * 3)
    image = Image.fromarray(paled.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for box in boxes:
        draw.rectangle(box, outline=GRID)
    large = np.repeat(np.repeat(mask, zoom, axis=0), zoom, axis=1)
    thick = max(1, max(image.size) // 700)
    edge = large & ~ndimage.binary_erosion(large, iterations=thick, border_value=1)
    out = np.asarray(image).copy()
    out[edge] = CONTOUR
    return Image.fromarray(out)


def heatmap(view: Overview, corners_um: Points, edge_um: float, scores: Points) -> Image.Image:
    """The overview with each tile coloured by the rank of its score: blue lowest, yellow highest.

    Ranks, since attention weights sum to 1 over thousands of tiles and few are large. Where tiles
    overlap the mean is shown.

    Args:
        scores: (n,), such as attention weights, in the order of ``corners_um`` (n, 2).
    """
    from matplotlib import colormaps

    zoom = _zoom(view)
    pixels = _enlarged(view.pixels, zoom)
    total = np.zeros(pixels.shape[:2])
    count = np.zeros(pixels.shape[:2])
    boxes = _boxes(corners_um, edge_um, view.mpp / zoom)
    for (left, top, right, low), rank in zip(boxes, ranks(scores), strict=True):
        total[top : low + 1, left : right + 1] += rank
        count[top : low + 1, left : right + 1] += 1
    shown = count > 0
    colour = colormaps["viridis"](total / np.maximum(count, 1))[..., :3] * 255
    grey = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    mixed = np.where(shown[..., None], 0.45 * grey + 0.55 * colour, 128 + pixels / 2)
    return Image.fromarray(mixed.astype(np.uint8))


def ranks(scores: Points) -> Points:
    """Each score's rank in [0, 1]; equal scores share their mean rank; 0.5 of a single one."""
    if len(scores) < 2:
        return np.full(len(scores), 0.5)
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle = ends - (counts + 1) / 2
    out: Points = middle[place] / (len(scores) - 1)
    return out


def _zoom(view: Overview) -> int:
    """How often each pixel is repeated so that the picture can be looked at."""
    return math.ceil(SHOWN_PIXELS / float(max(view.pixels.shape[:2])))


def _enlarged(pixels: Pixels, zoom: int) -> Pixels:
    return np.repeat(np.repeat(pixels, zoom, axis=0), zoom, axis=1)


def _boxes(corners_um: Points, edge_um: float, mpp: float) -> list[tuple[int, int, int, int]]:
    """Left, top, right and low pixel of each tile, the last two still inside it."""
    starts = np.rint(corners_um / mpp).astype(int)
    ends = np.maximum(np.rint((corners_um + edge_um) / mpp).astype(int) - 1, starts)
    return [(int(a), int(b), int(c), int(d)) for (a, b), (c, d) in zip(starts, ends, strict=True)]
