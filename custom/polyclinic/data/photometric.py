"""Brightness of a film from stored pixels: one table from bit pattern to [0, 1].

Stored pixels have at most 16 bits, so that every step is done once for each possible value and in
float64, and a film costs one look-up. The steps of PS3.3 C.11 in their order::

    stored -> modality (LUT or rescale) -> values of interest (LUT or window) -> [0, 1] -> inverse

* MONOCHROME1 and a Presentation LUT Shape of INVERSE mean the same, once: 0 is bright. (PS3.3
  C.8.11.3 asks DX films for both together.)
* Of several windows or VOI LUTs the first is taken; a LUT goes before a window.
* Without either, films of 8 bits keep their full range, so that a film and its PNG are equal;
  deeper ones are stretched between their 0.5th and 99.5th percentile, since markers and
  collimator edges would otherwise set the contrast.
* Padding (Pixel Padding Value, and up to its Range Limit) is black and counts in no percentile.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from polyclinic.data.flaw import Flaw
from polyclinic.data.pixels import PALETTE, Layout, integer

Values = npt.NDArray[np.float64]
PERCENTILES = (0.5, 99.5)
# Red, green, blue; ITU-R BT.601, the Y of YBR_FULL.
LUMA = (0.299, 0.587, 0.114)
MAX_LUT_ENTRIES = 1 << 16
COUNTED_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Tone:
    """What a header says about brightness, by bit pattern; all arrays (2 ** stored bits,).

    Attributes:
        values: after the modality step.
        brightness: of each in [0, 1]; ``None`` when the film's own percentiles decide.
        inverted: low values are bright.
        padding: patterns that are no part of the picture.
    """

    values: Values
    brightness: Values | None
    inverted: bool
    padding: npt.NDArray[np.bool_]

    def table(self, patterns: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
        """Brightness by bit pattern; ``patterns`` are those of the film, for its percentiles."""
        shown = self.brightness
        if shown is None:
            counts = _counted(patterns.ravel(), len(self.values))
            shown = _stretched(self.values, np.where(self.padding, 0, counts))
        bright = shown.astype(np.float32)
        # After rounding: a film is then exactly 1 minus its MONOCHROME2 twin.
        bright = 1 - bright if self.inverted else bright
        bright[self.padding] = 0
        return bright


def read_tone(header: Dataset, layout: Layout) -> Tone:
    """The tone of a grey or palette film.

    Raises:
        Flaw: a LUT, window or palette that cannot be applied.
    """
    patterns = np.arange(1 << layout.stored)
    half = 1 << (layout.stored - 1)
    stored = (
        np.where(patterns >= half, patterns - 2 * half, patterns) if layout.signed else patterns
    )
    padding = _padding(header, stored)
    if layout.photometric == PALETTE:
        return Tone(stored.astype(float), _palette(header, stored), False, padding)
    values = _modality(header, stored)
    brightness = _of_interest(header, values)
    if brightness is None and layout.stored <= 8:
        low, high = values.min(), values.max()
        brightness = (values - low) / (high - low)
    shape = str(header.get("PresentationLUTShape", "")).strip(" \0")
    inverted = layout.photometric == "MONOCHROME1" or shape == "INVERSE"
    return Tone(values, brightness, inverted, padding)


def _padding(header: Dataset, stored: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which stored values are padding."""
    if header.get("PixelPaddingValue") is None:
        return np.zeros(len(stored), bool)
    first = integer(header, "PixelPaddingValue")
    last = integer(header, "PixelPaddingRangeLimit", first)
    if stored[-1] < 0:
        # Written as unsigned by some: the value that has the same 16 bits.
        first, last = (v - (1 << 16) if v >= 1 << 15 else v for v in (first, last))
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _modality(header: Dataset, stored: npt.NDArray[np.int64]) -> Values:
    """Stored values as the modality means them."""
    if header.get("ModalityLUTSequence"):
        return _sequence_lut(header, "ModalityLUTSequence", stored.astype(float))
    slope, intercept = _first(header, "RescaleSlope", 1.0), _first(header, "RescaleIntercept", 0.0)
    if slope == 0:
        raise Flaw("bad_header", "a rescale slope of 0")
    return np.asarray(stored * slope + intercept)


def _of_interest(header: Dataset, values: Values) -> Values | None:
    """Brightness by the first VOI LUT or window; ``None`` without either."""
    if header.get("VOILUTSequence"):
        shown = _sequence_lut(header, "VOILUTSequence", values)
        return shown / _full_scale(shown)
    centre, width = _first(header, "WindowCenter", None), _first(header, "WindowWidth", None)
    if centre is None or width is None:
        return None
    function = str(header.get("VOILUTFunction", None) or "LINEAR").strip(" \0")
    return windowed(values, centre, width, function)


def windowed(values: Values, centre: float, width: float, function: str) -> Values:
    """Brightness in [0, 1].  PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3.

    Raises:
        Flaw: a width or a function that the standard does not allow.
    """
    if function == "LINEAR" and width >= 1:
        if width == 1:
            return (values > centre - 0.5).astype(float)
        return np.asarray(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0))
    if function == "LINEAR_EXACT" and width > 0:
        return np.asarray(np.clip((values - centre) / width + 0.5, 0.0, 1.0))
    if function == "SIGMOID" and width > 0:
        # exp of more than 700 overflows; at 50 the curve is 0 or 1 in float32 already.
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50))))
    raise Flaw("bad_header", "a window whose width or function cannot be applied")


def _looked_up(descriptor: Any, data: Any, little: bool, values: Values) -> Values:
    """Values through a LUT of PS3.3 C.11.1.1; those outside take its ends.

    Raises:
        Flaw: ``bad_header``, a LUT that is not what its descriptor says.
    """
    try:
        entries, first, bits = (int(part) for part in descriptor)
        entries = entries or MAX_LUT_ENTRIES
        if isinstance(data, bytes):
            words = np.frombuffer(data, "<u2" if little else ">u2")
            # Entries of 8 bits lie two in a word, the first in its low byte.
            packed = bits == 8 and len(words) < entries
            data = words.astype("<u2").view("u1") if packed else words
        lut = np.asarray(data, dtype=float).ravel()
    except (TypeError, ValueError):
        raise Flaw("bad_header", "a look-up table without numbers") from None
    if not 8 <= bits <= 16 or not 1 < entries <= len(lut) or lut.min() < 0:
        raise Flaw("bad_header", "a look-up table of another length than it says")
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16
    places = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
    return np.asarray(lut[places])


def _sequence_lut(header: Dataset, keyword: str, values: Values) -> Values:
    """Values through the first LUT of a sequence."""
    item = header[keyword].value[0]
    return _looked_up(item.get("LUTDescriptor"), item.get("LUTData"), _little(header), values)


def _palette(header: Dataset, stored: npt.NDArray[np.int64]) -> Values:
    """Luma of each index of a palette, in [0, 1].

    Raises:
        Flaw: ``unsupported_photometric`` without a palette, or with one in segments.
    """
    shown = np.zeros(len(stored))
    for name, weight in zip(("Red", "Green", "Blue"), LUMA, strict=True):
        descriptor = header.get(f"{name}PaletteColorLookupTableDescriptor")
        data = header.get(f"{name}PaletteColorLookupTableData")
        if not descriptor or not data:
            raise Flaw("unsupported_photometric", "no palette, or one in segments")
        shown += weight * _looked_up(descriptor, data, _little(header), stored.astype(float))
    return shown / _full_scale(shown)


def _full_scale(shown: Values) -> float:
    """Largest value of the number of bits that a LUT uses.

    Many headers claim 16 bits for a LUT of 8 or 12: its data tell.
    """
    return float((1 << max(1, int(np.ceil(shown.max())).bit_length())) - 1)


def _little(header: Dataset) -> bool:
    return header.original_encoding[1] is not False


def luma(pixels: npt.NDArray[Any], photometric: str, bits: int) -> npt.NDArray[np.float32]:
    """Brightness in [0, 1] of colour pixels (rows, columns, 3); the Y of YBR is it already."""
    if photometric.startswith("YBR"):
        grey = pixels[..., 0].astype(np.float32)
    else:
        grey = np.zeros(pixels.shape[:2], np.float32)
        for channel, weight in enumerate(LUMA):
            grey += pixels[..., channel] * np.float32(weight)
    grey /= np.float32((1 << bits) - 1)
    return np.clip(grey, 0.0, 1.0, out=grey)


def _counted(patterns: npt.NDArray[np.uint16], kinds: int) -> npt.NDArray[np.int64]:
    """How often each pattern occurs; in blocks, since bincount makes a copy of 8 bytes a pixel."""
    counts = np.zeros(kinds, np.int64)
    for start in range(0, len(patterns), COUNTED_AT_ONCE):
        counts += np.bincount(patterns[start : start + COUNTED_AT_ONCE], minlength=kinds)
    return counts


def _stretched(values: Values, counts: npt.NDArray[np.int64]) -> Values:
    """Brightness between two percentiles of the film; its full range if they meet."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(counts[order])
    if total[-1] == 0:
        raise Flaw("constant_image", "only padding")
    ranks = [np.searchsorted(total, total[-1] * p / 100) for p in PERCENTILES]
    low, high = (values[order[rank]] for rank in ranks)
    if low == high:
        there = values[counts > 0]
        low, high = there.min(), there.max()
    if low == high:
        raise Flaw("constant_image", "one value")
    return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0))


def _first(header: Dataset, keyword: str, default: Any) -> Any:
    """The first number of an element.

    Raises:
        Flaw: ``bad_header`` when it is there and no finite number.
    """
    value = header.get(keyword)
    if value is None or value == "":
        return default
    try:
        number = float(value[0] if hasattr(value, "__iter__") and len(value) else value)
    except (TypeError, ValueError):
        raise Flaw("bad_header", f"{keyword} is no number") from None
    if not np.isfinite(number):
        raise Flaw("bad_header", f"{keyword} is not finite")
    return number
