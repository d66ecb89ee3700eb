"""The losses of a segmentation with missing sequences: FedMEPD, arXiv 2603.04887.

Symbols, of one patient: y_c the voxels of class c (0 or 1), p_c their predicted probability, V
voxels, C classes. Everything is per patient, (B,), so that a patient whose loss is not finite can
be left out. In the authors' code (whose batches are of one patient) the Dice loss sums over the
batch; ours is the same for a batch of one and the mean over patients otherwise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from polyclinic.models.scan.network import ScanOutput

LEAST_PROBABILITY = 0.005
EPS = 1e-7


def weighted_cross_entropy(probability: Tensor, labels: Tensor) -> Tensor:
    """-(1/V) Σ_c w_c y_c log clip(p_c, .005, 1),  w_c = 1 - |y = c| / V.

    Args:
        probability: (B, C, *S).
        labels: class index, (B, *S).

    The authors' ``softmax_weighted_loss``; w_c of each patient. A class that is not in a crop has
    no voxel to weigh; a crop of one class alone has loss 0.
    """
    return _cross_entropy(*_told(probability, labels))


def dice_loss(probability: Tensor, labels: Tensor) -> Tensor:
    """1 - (1/C) Σ_c 2 <p_c, y_c> / (Σ p_c + Σ y_c + 1e-7), the background included; (B,).

    The authors' ``dice_loss``. A class that is not in a crop adds 0 to the sum, however little of
    it is predicted: the loss of a crop without one of C classes is at least 1 / C.
    """
    return _dice(*_told(probability, labels))


def segmentation_loss(output: ScanOutput, labels: Tensor, present: dict[str, Tensor]) -> Tensor:
    """L = L_fuse + L_prm + L_sep, each cross-entropy + Dice; (B,).

    L_prm sums over the region probabilities of all levels, L_sep over the sequences a patient has.
    """
    truth = _one_hot(labels, output.probability.shape[1])
    loss = _both(output.probability, truth)  # L_fuse
    for region in output.regions:  # L_prm
        loss = loss + _both(region, truth)
    for m, alone in output.auxiliary.items():  # L_sep
        loss = loss + torch.where(present[m], _both(alone, truth), 0.0)
    return loss


def _told(probability: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return probability.flatten(2), _one_hot(labels, probability.shape[1])


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """y (B, C, V)."""
    return F.one_hot(labels.flatten(1), classes).movedim(2, 1).to(torch.float32)


def _both(probability: Tensor, truth: Tensor) -> Tensor:
    p = probability.flatten(2)  # (B, C, V)
    return _cross_entropy(p, truth) + _dice(p, truth)


def _cross_entropy(p: Tensor, y: Tensor) -> Tensor:
    weight = 1.0 - y.mean(2)  # w_c (B, C)
    surprise = -p.clamp(LEAST_PROBABILITY, 1.0).log()  # (B, C, V)
    return torch.einsum("bc,bcv,bcv->b", weight, y, surprise) / y.shape[2]


def _dice(p: Tensor, y: Tensor) -> Tensor:
    overlap = torch.einsum("bcv,bcv->bc", p, y)
    return 1.0 - (2.0 * overlap / (p.sum(2) + y.sum(2) + EPS)).mean(1)
