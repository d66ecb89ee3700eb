"""Counts that may be shown: none below the site's smallest cell, nor derivable from the rest."""

from collections.abc import Mapping


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
