"""Square tiles of a slide at one resolution, whatever the resolution of the file.

The grid lies in pixels of the wanted resolution, from the top left corner of the scan: tile (i, j)
begins at (i * step, j * step). Pixels come from the coarsest level that is fine enough, and are
brought to the wanted resolution by their exact ratio, which is rarely a whole number (0.2528 µm to
0.5 µm). Tiles that would stick out at the right or lower edge are left out.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from polyclinic.data.slide_blocks import Pixels
from polyclinic.data.slide_image import SlideImage, rejected
from polyclinic.data.tissue import Mask, Overview
from polyclinic.errors import StudyError

Corners = npt.NDArray[np.int64]
Points = npt.NDArray[np.float64]

# Tiles are handed on in blocks of as many as a square of this edge would hold: 12 MiB.
BLOCK_PIXELS = 2048
# Longest edge of what is read at once, in pixels of the level that is read.
MAX_REGION = 3072
MAX_POSITIONS = 1 << 20
# How much coarser than wanted a slide may be; beyond it detail would be invented.
COARSER = 1.1


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a slide is cut.

    Attributes:
        mpp: micrometres per pixel of a tile.
        tile_px: edge of a tile in pixels.
        overlap_px: shared by neighbours.
        min_tissue: share of a tile that must be tissue.
    """

    mpp: float = 0.5
    tile_px: int = 224
    overlap_px: int = 0
    min_tissue: float = 0.25

    def __post_init__(self) -> None:
        fits = 0.05 <= self.mpp <= 16 and 16 <= self.tile_px <= 1024
        if not (fits and 0 <= self.overlap_px < self.tile_px and 0 < self.min_tissue <= 1):
            raise StudyError(
                expected="mpp of 0.05 to 16, tiles of 16 to 1024 pixels, less overlap than that "
                "and a tissue share in (0, 1]",
                got="another tiling",
                remedy="correct the options of the import",
            )

    @property
    def step_px(self) -> int:
        """From one tile to the next."""
        return self.tile_px - self.overlap_px

    @property
    def tile_um(self) -> float:
        """Edge of a tile in micrometres."""
        return self.tile_px * self.mpp

    @property
    def folder(self) -> str:
        """TRIDENT's name for it: 20x is 0.5 micrometres per pixel."""
        return f"{10 / self.mpp:g}x_{self.tile_px}px_{self.overlap_px}px_overlap"


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one slide that hold tissue.

    Attributes:
        corners: top left of each tile in pixels of the wanted resolution, (n, 2) as x, y; in the
            order in which they are read: row by row, in strips where the slide is very wide.
        ends: where each block ends in ``corners``.
        level: of the slide that is read.
        factor: pixels of that level per pixel of a tile.
        scale: pixels of level 0 per pixel of a tile.
    """

    tiling: Tiling
    corners: Corners
    ends: tuple[int, ...]
    level: int
    factor: float
    scale: float

    @property
    def corners_level0(self) -> Corners:
        """Top left of each tile in pixels of level 0, as TRIDENT and CLAM write them."""
        corners: Corners = np.rint(self.corners * self.scale).astype(np.int64)
        return corners

    @property
    def corners_um(self) -> Points:
        """Top left of each tile in micrometres."""
        return np.asarray(self.corners * self.tiling.mpp, dtype=np.float64)

    @property
    def blocks(self) -> Iterator[Corners]:
        """The corners, block by block."""
        start = 0
        for end in self.ends:
            yield self.corners[start:end]
            start = end


def plan_tiles(slide: SlideImage, view: Overview, mask: Mask, tiling: Tiling) -> TilePlan:
    """Which tiles to read.

    Raises:
        DataRejected: the slide is coarser than wanted, has no tissue, or more positions than any
            real one.
    """
    if slide.mpp > tiling.mpp * COARSER:
        remedy = "tile at a resolution that every slide has, or leave it out"
        raise rejected(slide.path, "too_coarse", "fewer pixels than wanted", remedy)
    scale = tiling.mpp / slide.mpp
    across, down = (max(0, _positions(side / scale, tiling)) for side in slide.size)
    if across * down > MAX_POSITIONS:
        remedy = "take larger tiles or less overlap"
        raise rejected(slide.path, "too_large", "too many tiles", remedy)
    level = slide.level_for(tiling.mpp)
    factor = scale / slide.downsamples[level]
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).reshape(-1, 2)
    places = np.asarray(grid * (tiling.step_px * tiling.mpp / view.mpp), dtype=np.float64)
    share = tissue_share(mask, places, tiling, view.mpp)
    kept = grid[share >= tiling.min_tissue]
    if not len(kept):
        remedy = "look at its picture; lower --min-tissue, or leave it out"
        raise rejected(slide.path, "no_tissue", "no tile with enough of it", remedy)
    # Rows of a strip lie so close together that no block of the file is decoded twice.
    wide = slide.strip(level, math.ceil(tiling.tile_px * factor))
    strip = kept[:, 0] // max(1, int(wide / (tiling.step_px * factor)))
    order = np.lexsort((kept[:, 0], kept[:, 1], strip))
    corners = (kept[order] * tiling.step_px).astype(np.int64)
    many = max(1, BLOCK_PIXELS**2 // tiling.tile_px**2)
    ends = (*range(many, len(kept), many), len(kept))
    return TilePlan(tiling, corners, ends, level, factor, scale)


def _positions(length: float, tiling: Tiling) -> int:
    """Tiles in a row of ``length`` pixels."""
    return math.floor((length - tiling.tile_px) / tiling.step_px + 1e-9) + 1


def tissue_share(mask: Mask, corners: Points, tiling: Tiling, view_mpp: float) -> Points:
    """Exact share of each tile's area that the mask covers; (n,) in [0, 1].

    Args:
        corners: (n, 2) as x, y, in pixels of the mask; not whole numbers.
    """
    edge = tiling.tile_um / view_mpp
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    total[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    x, y = corners[:, 0], corners[:, 1]
    area = _integral(total, y + edge, x + edge) - _integral(total, y, x + edge)
    area += _integral(total, y, x) - _integral(total, y + edge, x)
    return np.clip(area / edge**2, 0.0, 1.0)


def _integral(total: Points, y: Points, x: Points) -> Points:
    """The area of a mask above and left of points that may lie inside a pixel.

    Inside a pixel that integral is bilinear, since the mask is constant there.
    """
    y, x = np.clip(y, 0, total.shape[0] - 1), np.clip(x, 0, total.shape[1] - 1)
    i = np.minimum(y.astype(np.int64), total.shape[0] - 2)
    j = np.minimum(x.astype(np.int64), total.shape[1] - 2)
    u, v = y - i, x - j
    upper = total[i, j] * (1 - v) + total[i, j + 1] * v
    lower = total[i + 1, j] * (1 - v) + total[i + 1, j + 1] * v
    out: Points = upper * (1 - u) + lower * u
    return out


def read_block(slide: SlideImage, plan: TilePlan, corners: Corners) -> Pixels:
    """The tiles at these corners; (n, tile, tile, 3).

    Neighbours in a row are read as one region and cut from it: what they share is made once.

    Raises:
        DataRejected: the file is damaged there.
    """
    edge = plan.tiling.tile_px
    out = np.empty((len(corners), edge, edge, 3), np.uint8)
    apart = np.diff(corners, axis=0) != (plan.tiling.step_px, 0)
    begins = [0, *(np.flatnonzero(apart.any(axis=1)) + 1).tolist()]
    for begin, end in zip(begins, [*begins[1:], len(corners)], strict=True):
        x, y = (int(v) for v in corners[begin])
        run = _resampled(slide, plan, x, y, int(corners[end - 1, 0]) + edge, y + edge)
        for tile, left in zip(out[begin:end], corners[begin:end, 0] - x, strict=True):
            tile[:] = run[:, left : left + edge]
    return out


def _resampled(slide: SlideImage, plan: TilePlan, x: int, y: int, right: int, low: int) -> Pixels:
    """A rectangle of the wanted resolution; (low - y, right - x, 3).

    The triangle filter reaches ``factor`` pixels to both sides, so that much more is read: a tile
    has the same pixels in whatever piece it is read.
    """
    f = plan.factor
    if max(right - x, low - y) * f > MAX_REGION:  # a slide without a pyramid, coarse tiles
        if right - x >= low - y:
            half = (x + right) // 2
            parts = [(x, y, half, low), (half, y, right, low)]
        else:
            half = (y + low) // 2
            parts = [(x, y, right, half), (x, half, right, low)]
        pieces = [_resampled(slide, plan, *part) for part in parts]
        return np.concatenate(pieces, axis=int(right - x >= low - y))
    if f == 1.0:
        return slide.read(plan.level, x, y, right - x, low - y)
    width, height = slide.sizes[plan.level]
    reach = math.ceil(max(f, 1.0)) + 1
    left, top = max(0, math.floor(x * f) - reach), max(0, math.floor(y * f) - reach)
    end, bottom = min(width, math.ceil(right * f) + reach), min(height, math.ceil(low * f) + reach)
    image = Image.fromarray(slide.read(plan.level, left, top, end - left, bottom - top))
    # A level's own rounding may put the grid's last corner a fraction beyond its edge.
    box = (x * f - left, y * f - top, min(right * f, end) - left, min(low * f, bottom) - top)
    return np.asarray(image.resize((right - x, low - y), Image.Resampling.BILINEAR, box=box))


def read_tiles(slide: SlideImage, plan: TilePlan, threads: int = 2) -> Iterator[Pixels]:
    """All tiles in the order of ``plan.corners``, block by block; (n, tile, tile, 3) each.

    Blocks are read ahead by threads (OpenSlide works outside Python's lock), at most one more
    than there are threads, so that memory stays bounded however slow the reader of tiles is.

    Raises:
        DataRejected: the file is damaged.
    """
    blocks = plan.blocks
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(read_block, slide, plan, b) for b in islice(blocks, threads + 1)]
        try:
            while waiting:
                done = waiting.pop(0).result()
                for block in islice(blocks, 1):
                    waiting.append(pool.submit(read_block, slide, plan, block))
                yield done
        finally:
            for future in waiting:
                future.cancel()
