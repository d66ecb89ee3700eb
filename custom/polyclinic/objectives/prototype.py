"""FedMM's prototype terms (Peng et al., "FedMM: Federated multi-modal learning with modality
heterogeneity in computational pathology", arXiv 2402.15858).

C classes, D embedding length, h^(k) embedding of modality k, p̄_c^(k) prototype of class c.
Numbers (1)-(4) are those of ``polyclinic.algorithms.fedmm``; the paper's own stand beside them.
"""

import math
from typing import Literal

import torch
from torch import Tensor

PullNorm = Literal["squared", "l2"]


def prototype_weight(t: int, *, alpha: float, t0: int) -> float:
    """λ(t) = 1 / (1 + exp(-α (t - t0))).  (3), paper Eq. 9

    λ(t0) = 1/2; it lies in (0, 1) and rises with t when α > 0.
    """
    x = alpha * (t - t0)
    # Two forms of one function: exp of a large positive number would overflow.
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def pull(
    embeddings: Tensor,
    present: Tensor,
    prototypes: Tensor,
    known: Tensor,
    labels: Tensor,
    *,
    norm: PullNorm = "squared",
) -> Tensor:
    """(1/D) ||h - p̄_y||², per patient (B,): the second term of (2) without λβ.

    Zero for a patient who lacks the modality or whose class has no prototype yet.

    Args:
        embeddings: h^(k), (B, D).
        present: (B,) bool.
        prototypes: p̄^(k), (C, D).
        known: which classes have a prototype, (C,) bool.
        labels: (B,).
        norm: ``squared``, or ``l2`` for (1/D) ||h - p̄_y||.
    """
    gap = embeddings - prototypes[labels]  # (B, D)
    squared = gap.square().sum(1)  # (B,)
    counts = present & known[labels]
    if norm == "l2":
        # sqrt has no gradient at 0, where the pull is 0 anyway.
        squared = torch.where(squared > 0, squared, torch.ones(())).sqrt() * (squared > 0)
    return torch.where(counts, squared / embeddings.shape[1], torch.zeros(()))


def class_means(
    embeddings: Tensor, present: Tensor, labels: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """h̄_c (C, D) in float64, and how many patients each is over (C,).  Paper Eq. 11"""
    votes = torch.nn.functional.one_hot(labels, classes) * present[:, None]  # (B, C)
    counts = votes.sum(0)
    total = torch.einsum("bc,bd->cd", votes.to(torch.float64), embeddings.to(torch.float64))
    return total / counts.clamp(min=1)[:, None], counts
