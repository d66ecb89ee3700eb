"""The supervised part of a loss: binary or multi-class cross-entropy, per patient."""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (C n_c) per class, so that every class has the same total weight; (C,) float32.

    A class nobody has gets weight 1: it has no patient to weigh.
    """
    counts = torch.bincount(labels, minlength=classes).to(torch.float32)
    total, seen = counts.sum(), counts > 0
    return torch.where(seen, total / (seen.sum() * counts.clamp(min=1.0)), torch.ones(()))


def task_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each patient, (B,).

    Args:
        logits: (B, 1) for two classes, else (B, C).
        labels: class index, (B,).
        weights: per class, (C,).
        smoothing: share of the label spread evenly over the classes.
    """
    if logits.shape[1] == 1:
        target = labels.to(logits.dtype) * (1.0 - smoothing) + 0.5 * smoothing
        loss = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    else:
        loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return loss if weights is None else loss * weights[labels]


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities (B, C) from (B, 1) or (B, C) logits."""
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits[:, 0])
        return torch.stack([1.0 - positive, positive], dim=1)
    return torch.softmax(logits, dim=1)
