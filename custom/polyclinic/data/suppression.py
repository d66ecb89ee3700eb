"""Counts that may be shown: none below the site's smallest cell, nor derivable from the rest."""

import statistics
from collections.abc import Mapping, Sequence


def suppressed(counts: Mapping[str, int], minimum: int) -> dict[str, int | str]:
    """The counts with small ones as ``"<minimum"``.

    When exactly one is small, the next smallest is hidden too, as ``"hidden"``: the total is
    often known, and a single gap could be filled by subtraction.
    """
    small = [name for name, n in counts.items() if n < minimum]
    shown: dict[str, int | str] = {
        name: f"<{minimum}" if name in small else n for name, n in counts.items()
    }
    if len(small) == 1 and len(counts) > 1:
        others = sorted((n, name) for name, n in counts.items() if name not in small)
        shown[others[0][1]] = "hidden"
    return shown


def cell(count: int, minimum: int) -> int | str:
    """One count, or ``"<minimum"``."""
    return count if count >= minimum else f"<{minimum}"


def quartiles(values: Sequence[float], minimum: int) -> dict[str, float]:
    """``q1``, ``median`` and ``q3`` of one value per patient; nothing of fewer than ``minimum``.

    Quartiles and no extremes, which would be single patients.
    """
    if len(values) < max(2, minimum):
        return {}
    found = statistics.quantiles(values, n=4, method="inclusive")
    return dict(zip(("q1", "median", "q3"), found, strict=True))


def middle_half(found: Mapping[str, float], unit: str) -> str:
    """From the lower quartile to the upper, as ``1 to 7 mm``; ``7 mm`` where they read alike."""
    low, high = (f"{found[q]:.3g}" for q in ("q1", "q3"))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
