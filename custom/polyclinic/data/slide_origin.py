"""What a file of slide features says about its making, in the words of CLAM, TRIDENT and STAMP.

STAMP    attributes of the file: ``extractor``, ``unit``, ``tile_size_um``, ``tile_size_px``,
         ``feat_type`` (``tile``; ``slide`` and ``patient`` are no bags)
TRIDENT  attributes of ``coords``: ``patch_size``, ``target_magnification``; the encoder is in the
         folder's name
CLAM     nothing, or ``patch_size`` of a level that is not named

What ``polyclinic data import slides`` writes has all of these, and ``mpp``.
"""

import math
from dataclasses import dataclass
from typing import Any

import h5py
from pydantic import Field

from polyclinic.data.recipe import Recipe

# Names under which the three layouts and their forks store the encoder.
EXTRACTOR_ATTRIBUTES = ("extractor", "encoder", "patch_encoder", "model_name")
# 20x is a nominal magnification; scanners of 20x write 0.4990 to 0.5040 micrometres.
TOLERANCE = 0.03


class BagRecipe(Recipe):
    """What the sites of a study agree on beyond the extractor.

    Attributes:
        mpp: micrometres per pixel of a tile; 0 where it is not agreed.
        tile_px: edge of a tile in pixels; 0 where it is not agreed.
    """

    mpp: float = Field(default=0.0, ge=0.0, le=16.0)
    tile_px: int = Field(default=0, ge=0, le=4096)

    def differs(self, origin: "Origin") -> str:
        """What of a file's tiles is not as agreed, "" when nothing is known to differ."""
        if self.tile_px and origin.tile_px and self.tile_px != origin.tile_px:
            return "edge in pixels"
        if self.mpp and origin.mpp and not same_mpp(self.mpp, origin.mpp):
            return "micrometres per pixel"
        return ""

    def silent(self, origin: "Origin") -> bool:
        """Whether a file leaves unsaid something that was agreed."""
        return bool((self.mpp and not origin.mpp) or (self.tile_px and not origin.tile_px))


@dataclass(frozen=True)
class Origin:
    """How the tiles of a file were made; 0 and "" where it does not say.

    Attributes:
        tile_um: edge of a tile in micrometres.
        tile_px: edge of a tile in pixels.
        mpp: micrometres per pixel of a tile.
        unit: in which the file counts.
        kind: what one row of the features stands for.
    """

    extractor: str = ""
    tile_um: float = 0.0
    tile_px: int = 0
    mpp: float = 0.0
    unit: str = ""
    kind: str = ""


def same_mpp(one: float, other: float) -> bool:
    """Whether two resolutions are the same but for what scanners round."""
    return abs(one - other) <= TOLERANCE * max(one, other)


def origin_of(file: Any, dataset: Any) -> Origin:
    """What an open H5 file says of itself; ``dataset`` holds its features."""
    coords = (
        file.get("coords") if isinstance(file.get("coords", getlink=True), h5py.HardLink) else None
    )
    placed = coords.attrs if isinstance(coords, h5py.Dataset) else {}
    tile_um = _number(file.attrs, "tile_size_um")
    tile_px = round(_number(file.attrs, "tile_size_px"))
    mpp = _number(file.attrs, "mpp")
    power = _number(placed, "target_magnification")
    if power:  # only TRIDENT's patch_size is in pixels of that magnification
        tile_px = tile_px or round(_number(placed, "patch_size"))
        mpp = mpp or 10.0 / power
    if not mpp and tile_um and tile_px:
        mpp = tile_um / tile_px
    return Origin(
        extractor=_extractor(file, dataset),
        tile_um=tile_um or tile_px * mpp,
        tile_px=tile_px,
        mpp=mpp,
        unit=_text(file.attrs.get("unit", "")),
        kind=_text(file.attrs.get("feat_type", "")),
    )


def _extractor(file: Any, dataset: Any) -> str:
    """The extractor a file names, or ""."""
    for attributes in (file.attrs, dataset.attrs):
        for name in EXTRACTOR_ATTRIBUTES:
            if name in attributes:
                return _text(attributes[name])
    return ""


def _number(attributes: Any, name: str) -> float:
    """A positive finite attribute; 0 for any other."""
    try:
        value = float(attributes.get(name, 0.0))
    except (TypeError, ValueError):
        return 0.0
    return value if math.isfinite(value) and 0 < value < 1e9 else 0.0


def _text(value: object) -> str:
    """An attribute as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
