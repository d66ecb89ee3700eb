"""The supervised part of a loss: binary, multi-class or multi-label cross-entropy, per patient."""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (C n_c) per class, so that every class has the same total weight; (C,) float32.

    A class nobody has gets weight 1: it has no patient to weigh. Of several labels (n, L) each is
    weighed on its own, over the patients for whom it is known: no and yes (L, 2).
    """
    if labels.dim() == 2:
        known = [column[~column.isnan()].to(torch.int64) for column in labels.unbind(1)]
        return torch.stack([class_weights(column, 2) for column in known])
    counts = torch.bincount(labels, minlength=classes).to(torch.float32)
    total, seen = counts.sum(), counts > 0
    return torch.where(seen, total / (seen.sum() * counts.clamp(min=1.0)), torch.ones(()))


def task_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each patient, (B,).

    Args:
        logits: (B, 1) for two classes, else (B, C); (B, L) for L labels.
        labels: class index, (B,); or 1, 0 and NaN where unknown, (B, L).
        weights: as of ``class_weights``.
        smoothing: share of the label spread evenly over the classes.
    """
    if labels.dim() == 2:
        return _known_labels_loss(logits, labels, weights, smoothing)
    if logits.shape[1] == 1:
        target = labels.to(logits.dtype) * (1.0 - smoothing) + 0.5 * smoothing
        loss = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    else:
        loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return loss if weights is None else loss * weights[labels]


def _known_labels_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    """Binary cross-entropy, mean over the labels that are known for the patient; (B,).

    The mean, not the sum: a patient counts as much as another of whom more is known. The logit of
    an unknown label gets a gradient of exactly 0, whatever its value; nobody known, the loss is 0.
    """
    known = ~labels.isnan()  # (B, L)
    yes = torch.where(known, labels, 0.0).to(logits.dtype)
    # Taken out before the loss: the gradient of a masked NaN would be NaN.
    shown = torch.where(known, logits, 0.0)
    target = yes * (1.0 - smoothing) + 0.5 * smoothing
    loss = F.binary_cross_entropy_with_logits(shown, target, reduction="none")
    if weights is not None:
        loss = loss * torch.where(yes > 0.5, weights[:, 1], weights[:, 0])
    return torch.where(known, loss, 0.0).sum(1) / known.sum(1).clamp(min=1)


def probabilities(logits: Tensor, *, multi_label: bool = False) -> Tensor:
    """Class probabilities (B, C) from (B, 1) or (B, C) logits; of labels, each its own (B, L)."""
    if multi_label:
        return torch.sigmoid(logits)
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits[:, 0])
        return torch.stack([1.0 - positive, positive], dim=1)
    return torch.softmax(logits, dim=1)
