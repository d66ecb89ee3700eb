"""Sequences and mask of one patient on one grid, the classes of a mask, and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from polyclinic.data.flaw import Flaw
from polyclinic.data.grid import Floats, Volume
from polyclinic.data.scan_layout import MASK
from polyclinic.data.scan_recipe import ScanRecipe
from polyclinic.data.volume_frame import STACK, Stack, framing, require_shown, thinned

Tissues = npt.NDArray[np.uint8]
# Of a number in a mask file, which some programs store as a scaled or resampled one.
ROUNDING = 1e-3
# Voxels of the source looked up at once.
AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Framed:
    """One patient on one grid.

    Attributes:
        stack: (s, I, J, K), the sequences in the order in which they were given.
        tissues: class of each voxel, (I, J, K); ``None`` without a mask.
        affine: of the stack, (4, 4).
        kept: share of what the mask marks, in cubic millimetres, that the stack still shows.
    """

    stack: Stack = field(repr=False)
    tissues: Tissues | None = field(repr=False)
    affine: Floats = field(repr=False)
    kept: float = 1.0


def classes_of(volume: Volume, codes: Sequence[int]) -> Volume:
    """The mask with class indices in place of a file's numbers.

    Raises:
        Flaw: ``bad_mask``, it holds a number that is no code.
    """
    numbers = np.rint(volume.voxels)
    if not (np.abs(volume.voxels - numbers) <= ROUNDING).all():
        raise Flaw("bad_mask", "numbers that are not whole")
    order = np.argsort(codes)
    known = np.asarray(codes, dtype=np.float64)[order]
    places = np.searchsorted(known, numbers).clip(max=len(known) - 1)
    if not (known[places] == numbers).all():
        raise Flaw("bad_mask", "other numbers than the study's")
    return Volume(order[places].astype(np.float32), volume.affine, volume.doubtful)


def framed_scan(
    volumes: Mapping[str, Volume], mask: Volume | None, recipe: ScanRecipe, boxing: int
) -> Framed:
    """The stack of a patient's volumes in their order, and the mask on its grid.

    Args:
        mask: of class indices; it is looked up at the nearest voxel.
        boxing: how many of the first volumes decide the box.

    Raises:
        Flaw: ``empty_volume``, nothing is left of them but 0.
    """
    # A modality may have any name, also one of ours.
    named: dict[Any, Any] = {
        f"volume {i}": _with_place(thinned(v, recipe)) for i, v in enumerate(volumes.values())
    }
    names = list(named)
    masks = [MASK] if mask is not None else []
    if mask is not None:
        named[MASK] = _with_place(mask)
    out = framing(recipe, names, masks, boxing=boxing)(named)
    affine = np.asarray(out[STACK].affine, dtype=np.float64)
    stack = np.asarray(out[STACK].numpy(), dtype=np.float16)
    require_shown(stack)
    if mask is None:
        return Framed(stack, None, affine)
    tissues = np.asarray(out[MASK][0].numpy(), dtype=np.uint8)
    before = _marked(mask.voxels, mask.affine)
    return Framed(stack, tissues, affine, _marked(tissues, affine) / before if before else 1.0)


def _with_place(volume: Volume) -> MetaTensor:
    """The volume as MONAI reads it, (1, I, J, K)."""
    return MetaTensor(torch.from_numpy(volume.voxels)[None], affine=torch.from_numpy(volume.affine))


def _marked(classes: npt.NDArray[Any], affine: Floats) -> float:
    """Cubic millimetres that are not background."""
    return float(np.count_nonzero(classes)) * abs(float(np.linalg.det(affine[:3, :3])))


def looked_up(
    classes: npt.NDArray[Any], affine: Floats, source: Floats, shape: Sequence[int]
) -> npt.NDArray[Any]:
    """The values of an array at the voxels of another grid, each from the nearest; 0 outside.

    Where the two grids differ by a turn and a cut only, nothing is lost inside the cut.
    """
    found = np.zeros(tuple(shape), dtype=classes.dtype)
    turn = np.linalg.inv(affine) @ source
    across = np.indices(tuple(shape[1:])).reshape(2, -1)  # (2, J K)
    step = max(1, AT_ONCE // max(1, across.shape[1]))
    limits = np.array(classes.shape)[:, None]
    for start in range(0, shape[0], step):
        rows = np.arange(start, min(start + step, shape[0]))
        i = np.repeat(rows, across.shape[1])
        j, k = np.tile(across, len(rows))
        places = turn[:3, :3] @ np.stack([i, j, k]) + turn[:3, 3:]  # (3, n)
        nearest = np.rint(places).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < limits)).all(axis=0)
        part = found[rows[0] : rows[-1] + 1].reshape(-1)
        part[inside] = classes[tuple(nearest[:, inside])]
    return found
