"""Pixels of a slide from the file's own blocks, which costs a third of what OpenSlide takes.

OpenSlide composes every region with a graphics library: 16 of its 20 ns a pixel, even where the
blocks are decoded already. A tiled TIFF (SVS and plain ones) needs no composing. What is read here
has OpenSlide's pixels: in every level the fullest block is compared before the level is used.
Everything else is OpenSlide's: other formats and compressions, levels that differ, blocks that
are absent or damaged.

An SVS calls these blocks tiles; here a tile is what is embedded, a block what the file is made of.
"""

import contextlib
import io
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from polyclinic.data.quiet import quiet
from polyclinic.errors import DataRejected

Pixels = npt.NDArray[np.uint8]
# OpenSlide's pixels of a box of a level: level, left, top, width, height.
Reference = Callable[[int, int, int, int, int], Pixels]

# Decoded blocks that are kept: 22 million pixels, so that two rows of a scan 12 mm wide fit.
CACHE_BYTES = 64 << 20
MAX_PAGES = 128
# Numbers of TIFF: compressions and meanings of samples.
PLAIN, JPEG, DEFLATE, APERIO_J2K_RGB = 1, 7, (8, 32946), 33005
RGB, YCBCR = 2, 6
# Before the tables of a JPEG stream: whether the three samples are RGB or YCbCr (Adobe TN 5116).
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
# Greatest difference of means where OpenSlide lays a level between pixels and so blurs it.
MEAN_TOLERANCE = 1.5


@dataclass(frozen=True)
class Level:
    """Where the blocks of a level lie in the file.

    Attributes:
        size: width and height of the level.
        block: width and height of a block.
        head: bytes that begin every JPEG stream.
    """

    size: tuple[int, int]
    block: tuple[int, int]
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    compression: int
    head: bytes = b""

    @property
    def across(self) -> int:
        """Blocks in a row."""
        return -(-self.size[0] // self.block[0])

    def decoded(self, stream: bytes) -> Pixels:
        """A block's pixels, (height, width, 3).

        Raises:
            Exception: whatever a codec raises; or ``ValueError`` where it has another size.
        """
        width, height = self.block
        if self.compression == PLAIN or self.compression in DEFLATE:
            size = width * height * 3
            if self.compression != PLAIN:
                stream = zlib.decompressobj().decompress(stream, size + 1)
            return np.frombuffer(stream, np.uint8).reshape(height, width, 3)
        kind = "JPEG" if self.compression == JPEG else "JPEG2000"
        whole = self.head + stream[2:] if self.compression == JPEG else stream
        with Image.open(io.BytesIO(whole), formats=(kind,)) as image:
            if image.size != self.block or image.mode != "RGB":  # before memory is taken
                raise ValueError
            return np.asarray(image)


class SlideBlocks:
    """The levels of a slide that can be read by blocks; several threads may read at once.

    Args:
        sizes: width and height of each level, as OpenSlide says.
    """

    def __init__(self, path: Path, sizes: Sequence[tuple[int, int]]) -> None:
        self._levels: dict[int, Level] = {}
        self._trusted: dict[int, bool] = {}
        self._cache: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        self._file = -1
        # A file that tifffile cannot read may still be one of OpenSlide's.
        with quiet(), contextlib.suppress(Exception), tifffile.TiffFile(path) as tiff:
            self._levels = _levels(tiff, sizes)
        if self._levels:
            self._file = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._levels = -1, {}
        self._cache.clear()

    def read(self, level: int, box: tuple[int, int, int, int], real: Reference) -> Pixels | None:
        """Pixels (height, width, 3) of a box, or ``None`` where OpenSlide is to read it.

        Args:
            box: left, top, width and height in pixels of the level.
            real: by which the level is compared before its first use.
        """
        left, top, width, height = box
        found = self._levels.get(level)
        if found is None or min(left, top) < 0 or min(width, height) < 1:
            return None
        if left + width > found.size[0] or top + height > found.size[1]:
            return None
        if level not in self._trusted:
            # Two threads may both compare: they find the same.
            self._trusted[level] = self._equals(level, found, real)
        if not self._trusted[level]:
            return None
        out = np.empty((height, width, 3), np.uint8)
        wide, high = found.block
        for row in range(top // high, (top + height - 1) // high + 1):
            for column in range(left // wide, (left + width - 1) // wide + 1):
                block = self._block(level, found, row * found.across + column)
                if block is None:
                    return None
                x, y = column * wide - left, row * high - top
                begin, start = max(0, -x), max(0, -y)
                part = block[start : height - y, begin : width - x]
                x, y = x + begin, y + start
                out[y : y + part.shape[0], x : x + part.shape[1]] = part
        return out

    def _block(self, level: int, found: Level, index: int) -> Pixels | None:
        """One block, decoded or kept; ``None`` where it is absent or damaged."""
        key = (level, index)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        offset, count = int(found.offsets[index]), int(found.counts[index])
        if not 2 < count <= 2 * 3 * found.block[0] * found.block[1] + (64 << 10):
            return None
        try:
            block = found.decoded(os.pread(self._file, count, offset))
        except Exception:  # codecs raise what they like; OpenSlide then says what is wrong
            return None
        with self._lock:
            if key not in self._cache:
                self._cache[key] = block
                self._held += block.nbytes
            while self._held > CACHE_BYTES:
                self._held -= self._cache.popitem(last=False)[1].nbytes
        return block

    def _equals(self, level: int, found: Level, real: Reference) -> bool:
        """Whether the fullest block, in which there is most to see, is OpenSlide's.

        Below level 0 OpenSlide may lay its grid between pixels: there colours are compared.
        """
        index = int(found.counts.argmax())
        x, y = (index % found.across) * found.block[0], (index // found.across) * found.block[1]
        width = min(found.block[0], found.size[0] - x)
        height = min(found.block[1], found.size[1] - y)
        block = self._block(level, found, index)
        if block is None:
            return False
        try:
            theirs = real(level, x, y, width, height)
        except DataRejected:  # it may lie where nobody looks
            return False
        mine = block[:height, :width]
        if level == 0 or np.array_equal(mine, theirs):
            return np.array_equal(mine, theirs)
        apart = mine.mean(axis=(0, 1)) - theirs.mean(axis=(0, 1))
        return bool(np.abs(apart).max() <= MEAN_TOLERANCE)


def _levels(tiff: Any, sizes: Sequence[tuple[int, int]]) -> dict[int, Level]:
    """The pages that are levels and can be read by blocks."""
    pages: dict[tuple[int, int], list[Any]] = {}
    for page in islice(tiff.pages, MAX_PAGES):
        if page.is_tiled:
            pages.setdefault((int(page.imagewidth), int(page.imagelength)), []).append(page)
    # Two pages of one size (focal planes): which of them is the level is OpenSlide's secret.
    same = {i: pages.get(size, []) for i, size in enumerate(sizes)}
    return {i: level for i, of in same.items() if len(of) == 1 and (level := _level(of[0]))}


def _level(page: Any) -> Level | None:
    """How a page is read; ``None`` where it is not 8-bit RGB side by side in known blocks."""
    compression, meaning = int(page.compression), int(page.photometric)
    usual = page.dtype == np.uint8 and page.samplesperpixel == 3 and page.planarconfig == 1
    readable = (PLAIN, *DEFLATE, APERIO_J2K_RGB)
    known = compression in readable and meaning == RGB and page.predictor == 1
    known |= compression == JPEG and meaning in (RGB, YCBCR)
    size = (int(page.imagewidth), int(page.imagelength))
    block = (int(page.tilewidth), int(page.tilelength))
    if not (usual and known and min(*size, *block) > 0):
        return None
    offsets, counts = (np.asarray(v, np.int64) for v in (page.dataoffsets, page.databytecounts))
    level = Level(size, block, offsets, counts, compression, _head(page, meaning))
    rows = -(-size[1] // block[1])
    return level if len(offsets) == len(counts) == level.across * rows else None


def _head(page: Any, meaning: int) -> bytes:
    """What lies before the tables and data of each JPEG stream of a page."""
    tables = page.jpegtables or b"\xff\xd8\xff\xd9"
    return b"\xff\xd8" + ADOBE + bytes([int(meaning == YCBCR)]) + tables[2:-2]
