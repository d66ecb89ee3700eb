"""Pixels of a whole-slide image in bounded pieces: SVS, NDPI, MRXS, SCN, BIF, tiled TIFF, DICOM.

OpenSlide reads the formats; the pixels of tiled TIFF come past it (``slide_blocks``). Only the
scan itself is ever read: the label and macro pictures that lie in many files show names and
numbers, and no function here touches them or the file's comments.
"""

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import openslide
from PIL import Image

from polyclinic.data.quarantine import REASONS, file_hash
from polyclinic.data.slide_blocks import CACHE_BYTES, Pixels, SlideBlocks
from polyclinic.errors import DataRejected

SUFFIXES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".tif", ".tiff", ".dcm"})
# What microscopes make: 100x to 0.6x. Beyond it a header is wrong (a scan of 72 dpi says 353 µm).
MPP_RANGE = (0.05, 16.0)
# Most a pixel's width may differ from its height.
MAX_STRETCH = 0.02
# A file's own tile is decoded as a whole; 64 MiB in memory.
MAX_TILE_PIXELS = 1 << 24
MAX_SIDE = 1 << 22
MAX_LEVELS = 64
WHITE = (255, 255, 255, 255)


def rejected(path: Path, reason: str, got: str, remedy: str) -> DataRejected:
    """The refusal of a slide; it holds the file's hash, never its name."""
    return DataRejected(
        reason,
        file_hash=file_hash(path),
        expected="a whole-slide image that can be read by tiles",
        got=f"{REASONS[reason]} ({got})",
        remedy=remedy,
    )


class SlideImage:
    """An open slide.

    Guarantees:
    - What is held in memory does not grow with the slide: caches of 64 and 32 MiB (OpenSlide's),
      plus what one ``read`` asks for.
    - ``read`` may be called from several threads at once.
    - Everything that OpenSlide raises on a damaged file becomes ``DataRejected``.

    Attributes:
        size: width and height of level 0 in pixels.
        mpp: micrometres per pixel of level 0.
        stated_mpp: the same by the file itself; 0 where it does not say.
        downsamples: by level, how many pixels of level 0 one pixel stands for.
        sizes: by level, width and height.
    """

    def __init__(self, path: Path, mpp: float = 0.0) -> None:
        """Open a slide.

        Args:
            mpp: that the site states for this slide; 0 takes the file's own.

        Raises:
            DataRejected: no slide, damaged, too large to be read by tiles, or without mpp.
        """
        self.path = path
        self._slide = _opened(path)
        self._blocks: SlideBlocks | None = None
        try:
            self.sizes = [(int(w), int(h)) for w, h in self._slide.level_dimensions]
            self.downsamples = [float(d) for d in self._slide.level_downsamples]
            self.size = self.sizes[0]
            self._require_bounded()
            self.stated_mpp = self._own_mpp()
            self.mpp = mpp or self.stated_mpp
            if not MPP_RANGE[0] <= self.mpp <= MPP_RANGE[1]:
                got = "none stated" if not self.mpp else "an impossible one"
                raise self._refused("no_mpp", got, "state it with --mpp-csv (columns wsi, mpp)")
            self._blocks = SlideBlocks(path, self.sizes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
        if self._blocks is not None:
            self._blocks.close()

    def level_for(self, mpp: float) -> int:
        """The coarsest level that is not coarser than ``mpp``; 0 when there is none."""
        # Levels are rounded to whole pixels: 2221 for 4443 / 2 makes 2.0005.
        fine = [i for i, d in enumerate(self.downsamples) if d * self.mpp <= mpp * 1.005]
        return max(fine, key=lambda i: self.downsamples[i], default=0)

    def strip(self, level: int, height: int) -> int:
        """How wide a strip of a level may be so that all blocks under a row of it stay cached.

        Whoever reads strip by strip, each row by row, decodes no block twice.

        Args:
            height: of a row in pixels of that level.
        """
        block = int(self._slide.properties.get(f"openslide.level[{level}].tile-height", 256))
        return max(1, CACHE_BYTES // (2 * 3 * (height + block)))

    def read(self, level: int, left: int, top: int, width: int, height: int) -> Pixels:
        """Pixels of a level as RGB, (height, width, 3); white where nothing was scanned.

        Args:
            left, top: in pixels of that level.

        Raises:
            DataRejected: the file is damaged there.
        """
        found = None
        if self._blocks is not None:
            found = self._blocks.read(level, (left, top, width, height), self._composed)
        return self._composed(level, left, top, width, height) if found is None else found

    def _composed(self, level: int, left: int, top: int, width: int, height: int) -> Pixels:
        """The same by OpenSlide."""
        scale = self.downsamples[level]
        corner = (round(left * scale), round(top * scale))
        got = ""
        try:
            region = self._slide.read_region(corner, level, (width, height))
        except (openslide.OpenSlideError, OSError, ValueError, MemoryError) as error:
            got = type(error).__name__
        if got:  # outside the except block: the library's own error may quote the path
            raise self._refused("unreadable", got, "copy or scan the slide again")
        if region.getchannel("A").getextrema()[0] < 255:  # transparent: not scanned
            region = Image.alpha_composite(Image.new("RGBA", region.size, WHITE), region)
        return np.asarray(region.convert("RGB"))

    def identity(self) -> str:
        """A text that differs between slides: size, dimensions and OpenSlide's quick hash."""
        known: Any = self._slide.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        return f"{self.path.stat().st_size}/{self.sizes}/{known or file_hash(self.path)}"

    def _own_mpp(self) -> float:
        """Micrometres per pixel by the file, 0 when unstated.

        Raises:
            DataRejected: pixels that are not square.
        """
        names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        try:
            x, y = (float(self._slide.properties.get(n) or 0.0) for n in names)
        except ValueError:
            return 0.0
        if not (math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0):
            return 0.0
        if abs(x - y) > MAX_STRETCH * max(x, y):
            raise self._refused("no_mpp", "pixels are not square", "export the slide again")
        return (x + y) / 2

    def _require_bounded(self) -> None:
        """Refuse what could not be read piece by piece.

        Raises:
            DataRejected: a level, or a tile inside the file, is larger than is allowed.
        """
        remedy = "export the slide as a pyramid with tiles of at most 4096 pixels"
        if len(self.sizes) > MAX_LEVELS or max(max(s) for s in self.sizes) > MAX_SIDE:
            raise self._refused("too_large", "levels or sides", remedy)
        if min(min(s) for s in self.sizes) < 1:
            raise self._refused("unreadable", "a level without pixels", remedy)
        for level in range(len(self.sizes)):
            sides = [f"openslide.level[{level}].tile-{s}" for s in ("width", "height")]
            width, height = (int(self._slide.properties.get(s, 0)) for s in sides)
            if width * height > MAX_TILE_PIXELS:
                raise self._refused("too_large", "a tile inside the file", remedy)

    def _refused(self, reason: str, got: str, remedy: str) -> DataRejected:
        return rejected(self.path, reason, got, remedy)


def _opened(path: Path) -> openslide.OpenSlide:
    """OpenSlide's handle.

    Raises:
        DataRejected: missing, empty, of no format that is read by tiles, or damaged.
    """
    remedy = "copy the slide again, or export it as a tiled TIFF"
    try:
        if not path.is_file():
            raise rejected(path, "missing_file", "no such file", remedy)
        if not path.stat().st_size:
            raise rejected(path, "unreadable", "0 bytes", remedy)
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        reason, got = "unsupported_slide", "OpenSlide knows no such format"
    except (openslide.OpenSlideError, OSError, ValueError) as error:
        reason, got = "unreadable", type(error).__name__
    raise rejected(path, reason, got, remedy) from None
