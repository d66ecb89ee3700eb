"""How well the regions of a predicted mask lie on those of the truth: Dice and Hausdorff distance.

B. H. Menze et al., *The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS)*, IEEE TMI 34
(2015): regions unite classes, and each region is scored as one binary mask.

    A, B    voxels of a region, predicted and true
    R       regions, in the order of the study
    I J K   axes of the grid
"""

import warnings
from collections.abc import Sequence
from itertools import combinations

import torch
from monai.metrics import compute_hausdorff_distance
from torch import Tensor

from polyclinic.task import Mask

PERCENTILE = 95.0


def region_masks(classes: Tensor, mask: Mask) -> Tensor:
    """Which voxels belong to each region, (R, I, J, K) bool, of their classes (I, J, K)."""
    united = [torch.tensor(mask.region(name), device=classes.device) for name in mask.regions]
    return torch.stack([torch.isin(classes, members) for members in united])  # (R, I, J, K)


def dice(predicted: Tensor, truth: Tensor) -> Tensor:
    """2 |A ∩ B| / (|A| + |B|) of each region, (R,) float32.

    Guarantees:
        - always a number in [0, 1]: 1 where a region is neither predicted nor true, 0 where it is
          only one of both, as BraTS scores it;
        - the same with ``predicted`` and ``truth`` exchanged.

    Args:
        predicted, truth: (R, I, J, K) bool.
    """
    both = (predicted & truth).flatten(1).sum(1)  # (R,)
    either = predicted.flatten(1).sum(1) + truth.flatten(1).sum(1)  # (R,)
    # float64: a whole scan has more voxels than float32 counts exactly.
    share = 2.0 * both.double() / either.clamp(min=1).double()
    return torch.where(either > 0, share, 1.0).float()


def hd95(
    predicted: Tensor, truth: Tensor, spacing_mm: tuple[float, float, float] | None = None
) -> Tensor:
    """95th percentile Hausdorff distance of the surfaces of each region, (R,) float32.

    The larger of the two directed percentiles. In voxels, as the FedMEPD paper counts them, unless
    ``spacing_mm`` says how large a voxel is. NaN where a region is not there, predicted or true:
    no distance is defined, and whoever takes a mean leaves it out.

    Args:
        predicted, truth: (R, I, J, K) bool.
    """
    found = torch.full((len(truth),), torch.nan)
    there = predicted.flatten(1).any(1) & truth.flatten(1).any(1)  # (R,)
    with warnings.catch_warnings():
        # MONAI calls its own deprecated functions.
        warnings.simplefilter("ignore", FutureWarning)
        for r in torch.nonzero(there).flatten().tolist():
            found[r] = compute_hausdorff_distance(
                predicted[r][None, None],  # (1, 1, I, J, K)
                truth[r][None, None],
                include_background=True,
                percentile=PERCENTILE,
                spacing=spacing_mm,
            )[0, 0]
    return found


def subsets(sequences: Sequence[str]) -> tuple[str, ...]:
    """Every non-empty subset of the sequences as ``flair+t1ce``, by size and then by name."""
    names = sorted(sequences)
    sizes = range(1, len(names) + 1)
    return tuple("+".join(chosen) for size in sizes for chosen in combinations(names, size))
