"""Which row of which decoder tensor a filter is, and that a personal one tells nothing.

A filter is one output channel of a convolution of ``dec.*``: a row (first axis) of its weight and
the entry of its bias beside it. Filters are numbered through the weights in order of their names.
A site that keeps filters for itself says so with a mask, 0 for personal and 1 for federated, and
what it sends of the personal ones is zero; the site's training process, its egress filter and the
server's guard look at that one after the other, with ``filters_fault``.

Guarantees of ``filters_fault``, which finds a fault in an update
    * whose mask has another length than there are filters, or holds anything but 0 and 1;
    * that has a mask, and a tensor of ``dec.*`` which belongs to no filter;
    * in which a personal filter has an entry that is not +0.0 (the sign of -0.0 would tell
      something), or a weight that is not;
    * in which a weight is negative or no finite number, or belongs to no filter.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyclinic.errors import StudyError
from polyclinic.exchange import STORE, Array, Tensors

DECODER = "dec."
MASK = STORE + "filter.mask"
WEIGHT = STORE + "filter.weight"
_WEIGHT, _BIAS = ".weight", ".bias"


@dataclass(frozen=True)
class FilterLayout:
    """Filters of a decoder, numbered.

    Attributes:
        slices: by convolution (``dec.rfm.0`` for ``dec.rfm.0.weight`` and ``.bias``), the numbers
            of its filters, in order of the weights' names.
        size: filters in all.
    """

    slices: Mapping[str, slice]
    size: int

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> "FilterLayout":
        """The layout of the ``dec.*`` among these shapes by name.

        Raises:
            StudyError: a tensor of ``dec.*`` is neither a weight with rows nor the bias of one.
        """
        slices: dict[str, slice] = {}
        size = 0
        for name in sorted(n for n in shapes if n.startswith(DECODER)):
            if name.endswith(_WEIGHT) and shapes[name]:
                rows = shapes[name][0]
                slices[name.removesuffix(_WEIGHT)] = slice(size, size + rows)
                size += rows
        layout = cls(slices, size)
        for name in (n for n in shapes if n.startswith(DECODER)):
            rows_of = layout.rows(name)
            if rows_of is None or shapes[name][:1] != (rows_of.stop - rows_of.start,):
                raise StudyError(
                    expected="convolutions in dec.*: weights with rows, and biases as long",
                    got=f"'{name}' of shape {shapes[name]}",
                    remedy="mend the decoder, or give it no personal filters",
                )
        return layout

    def rows(self, name: str) -> slice | None:
        """Filters whose rows a tensor holds; None for one that holds none."""
        for suffix in (_WEIGHT, _BIAS):
            if name.endswith(suffix):
                return self.slices.get(name.removesuffix(suffix))
        return None


def layout_of(tensors: Mapping[str, Array]) -> FilterLayout:
    """The layout of tensors by name.

    Raises:
        StudyError: as ``FilterLayout.of``.
    """
    return FilterLayout.of({n: a.shape for n, a in tensors.items()})


def without_personal_rows(tensors: Tensors, mask: npt.NDArray[np.uint8]) -> Tensors:
    """The same tensors; rows of personal filters (mask 0) are +0.0, in copies.

    Raises:
        StudyError: as ``FilterLayout.of``.
    """
    layout = layout_of(tensors)
    kept = dict(tensors)
    for name, array in tensors.items():
        rows = layout.rows(name)
        if rows is not None:
            kept[name] = array.copy()
            # Assigned, not multiplied: a negative number times 0 is -0.0.
            kept[name][mask[rows] == 0] = 0
    return kept


def filters_fault(tensors: Mapping[str, Array]) -> str:
    """What is wrong with the filters of an update, in a few words; "" for nothing.

    An update without a mask keeps no filter for its site, and is not looked at.
    """
    mask, weight = tensors.get(MASK), tensors.get(WEIGHT)
    if mask is None:
        return "" if weight is None else "weights of filters without a mask"
    if mask.ndim != 1 or not np.isin(mask, (0, 1)).all():
        return "a mask of other values than 0 and 1"
    if weight is not None:
        if weight.shape != mask.shape or not np.isfinite(weight).all() or np.less(weight, 0).any():
            return "weights of filters that are negative, not finite, or more or fewer than filters"
        if _tells(weight[mask == 0]):
            return "a weight of a personal filter"
    return "" if personal_rows_are_zero(tensors, mask) else "a row of a personal filter"


def personal_rows_are_zero(tensors: Mapping[str, Array], mask: Array) -> bool:
    """Whether every row of a personal filter (mask 0) is +0.0, and the mask is of these filters."""
    try:
        layout = layout_of(tensors)
    except StudyError:
        return False
    if mask.shape != (layout.size,):
        return False
    rows = {name: layout.rows(name) for name in tensors}
    return not any(_tells(tensors[n][mask[r] == 0]) for n, r in rows.items() if r is not None)


def _tells(numbers: Array) -> bool:
    """Whether a number among these is not +0.0."""
    return bool(numbers.any() or np.signbit(numbers).any())
