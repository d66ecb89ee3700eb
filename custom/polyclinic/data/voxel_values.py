"""What the numbers of a volume must be before anything is made of them."""

import numpy as np

from polyclinic.data.flaw import Flaw
from polyclinic.data.grid import Voxels

# Squares of larger numbers, which a spread is made of, leave what 32 bits can say.
LARGEST = 1e18


def require_values(voxels: Voxels, *, one_value: bool = False) -> None:
    """Refuse a volume that cannot be normalised.

    Args:
        one_value: a volume of one value is one, as a mask of background is.

    Raises:
        Flaw: ``not_finite``, ``huge_values`` or ``constant_image``.
    """
    low, high = float(voxels.min()), float(voxels.max())
    if not np.isfinite(low + high):
        raise Flaw("not_finite", f"{int((~np.isfinite(voxels)).sum())} voxels")
    if max(-low, high) > LARGEST:
        raise Flaw("huge_values", f"above {LARGEST:g}")
    if low == high and not one_value:
        raise Flaw("constant_image", "one value")
