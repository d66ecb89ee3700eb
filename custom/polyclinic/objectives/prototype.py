"""FedMM's prototype terms (Peng et al., "FedMM: Federated multi-modal learning with modality
heterogeneity in computational pathology", arXiv 2402.15858).

C classes, D embedding length, h^(k) embedding of modality k, p̄_c^(k) prototype of class c.
Numbers (1)-(4) are those of ``polyclinic.algorithms.fedmm``; the paper's own stand beside them.
"""

import math
from dataclasses import dataclass
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
        squared = torch.where(squared > 0, squared, squared.new_ones(())).sqrt() * (squared > 0)
    return torch.where(counts, squared / embeddings.shape[1], squared.new_zeros(()))


@dataclass
class EmbeddingStatistics:
    """Running sums over a site's embeddings of one modality: class means, spread and size.

    float64 sums, so that the order of batches is not seen in float32.
    """

    classes: int
    class_sum: Tensor  # (C, D)
    class_count: Tensor  # (C,)
    square_sum: Tensor  # (D,)

    @classmethod
    def empty(cls, classes: int, embedding: int) -> "EmbeddingStatistics":
        """Nobody seen yet."""
        zeros = torch.zeros((classes, embedding), dtype=torch.float64)
        return cls(classes, zeros, torch.zeros(classes, dtype=torch.int64), zeros[0].clone())

    def add(self, embeddings: Tensor, present: Tensor, labels: Tensor) -> None:
        """Count the present patients of a batch: (B, D), (B,), (B,)."""
        h = embeddings[present].to(torch.float64)
        self.class_sum.index_add_(0, labels[present], h)
        self.class_count += torch.bincount(labels[present], minlength=self.classes)
        self.square_sum += h.square().sum(0)

    @property
    def means(self) -> Tensor:
        """h̄_c, (C, D); zero for a class nobody has.  Paper Eq. 11"""
        return self.class_sum / self.class_count.clamp(min=1)[:, None]

    @property
    def mean_square(self) -> float:
        """Mean of h² over patients and components: 1 under a LayerNorm as it starts."""
        return float(self.square_sum.mean() / self.class_count.sum().clamp(min=1))

    @property
    def variance(self) -> float:
        """Mean over components of the variance over patients."""
        n = self.class_count.sum().clamp(min=1)
        centre = self.class_sum.sum(0) / n
        return float((self.square_sum / n - centre.square()).clamp(min=0).mean())

    @property
    def between(self) -> float:
        """The part of ``variance`` that lies between the classes."""
        n = self.class_count.sum().clamp(min=1)
        centre = self.class_sum.sum(0) / n
        share = self.class_count.to(torch.float64) / n  # (C,)
        return float((share[:, None] * (self.means - centre).square()).sum(0).mean())


def separation(prototypes: Tensor, known: Tensor) -> tuple[float, float]:
    """Mean norm of the known prototypes, and their mean distance from each other over that norm.

    The second is 0 when fewer than two are known.
    """
    rows = prototypes[known].to(torch.float64)
    if not len(rows):
        return 0.0, 0.0
    norm = float(rows.norm(dim=1).mean())
    if len(rows) < 2 or norm == 0.0:
        return norm, 0.0
    return norm, float(torch.pdist(rows).mean()) / norm
