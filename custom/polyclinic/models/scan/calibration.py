"""Localised adaptive calibration by cross-attention (LACCA) of features to the server's anchors.

FedMEPD, arXiv 2603.04887. V voxels, A anchors of the level, h heads, C channels; W_0, W_1, W_2 map
C to h C, and each head has C channels::

    F_cal = [softmax((F W_0)(A W_1)^T / sqrt(C)) A W_2] W_o

Anchors are few, so the products are taken from the right: F (W_0 (A W_1)^T) costs V C h A and
holds V h A numbers, where the order of the formula costs V C h C and holds V h C.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SPREAD = 0.001


class SmallLinear(nn.Linear):
    """A linear layer that starts from N(0, .001), with bias 0."""

    def reset_parameters(self) -> None:
        """Draw afresh; nothing on the meta device."""
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=SPREAD)
            nn.init.zeros_(self.bias)


class CrossAttention(nn.Module):
    """Maps the features (B, C, *S) of a level to their calibration by its anchors (A, C).

    Peak memory beyond features and result is 4 h A floats for each of ``chunk`` voxels; where there
    are more voxels the backward pass computes chunks again instead of keeping them. Level 1 as
    published (h = 4, A = 16, 80^3 voxels) peaks 195 MB above what was there, 428 MB in one piece
    (``tests/benchmarks/fedmepd_speed.py``).

    Guarantees:
    - Before the output projection a voxel of a head is a convex combination of the known anchors'
      values (without dropout).
    - What stands in an unknown anchor does not matter.
    - The size of a chunk does not matter (without dropout).
    """

    def __init__(
        self, channels: int, heads: int, *, dropout: float, residual: bool, chunk: int
    ) -> None:
        super().__init__()
        self.heads, self.residual, self.chunk = heads, residual, chunk
        self.query = SmallLinear(channels, heads * channels)
        self.key = SmallLinear(channels, heads * channels)
        self.value = SmallLinear(channels, heads * channels)
        self.out = SmallLinear(heads * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, anchors: Tensor, known: Tensor | None = None) -> Tensor:
        """F_cal (B, C, *S); ``known`` (A,) says which anchors there are, at least one."""
        if known is not None:
            anchors = anchors[known]
        voxels = features.flatten(2)  # (B, C, S)
        parts = torch.split(voxels, max(1, self.chunk // voxels.shape[0]), dim=2)
        again = len(parts) > 1 and torch.is_grad_enabled()
        done = [
            checkpoint(self._calibrated, part, anchors, use_reentrant=False)
            if again
            else self._calibrated(part, anchors)
            for part in parts
        ]
        calibrated = torch.cat(done, dim=2).reshape(features.shape)
        return features + calibrated if self.residual else calibrated

    def attention(self, voxels: Tensor, anchors: Tensor) -> Tensor:
        """The weight of each anchor for each voxel, (B, C, S) -> (B, h, A, S); sums to 1 over A."""
        channels, heads = voxels.shape[1], self.heads
        key = self.key(anchors).reshape(-1, heads, channels) / math.sqrt(channels)  # (A, h, C)
        w_0 = self.query.weight.reshape(heads, channels, channels)  # (h, C of head, C)
        b_0 = self.query.bias.reshape(heads, channels)
        towards = torch.einsum("ahd,hdc->hac", key, w_0).flatten(0, 1)  # (h A, C)
        offset = torch.einsum("ahd,hd->ha", key, b_0).reshape(-1, 1)  # (h A, 1)
        score = torch.baddbmm(offset, towards.expand(len(voxels), -1, -1), voxels)  # (B, h A, S)
        return torch.softmax(score.reshape(len(voxels), heads, -1, voxels.shape[2]), dim=2)

    def values(self, anchors: Tensor) -> Tensor:
        """A W_2 (h, A, C)."""
        value: Tensor = self.value(anchors).reshape(len(anchors), self.heads, -1)
        return value.transpose(0, 1)

    def _calibrated(self, voxels: Tensor, anchors: Tensor) -> Tensor:
        batch, channels, _ = voxels.shape
        weight = self.dropout(self.attention(voxels, anchors)).flatten(1, 2)  # (B, h A, S)
        w_o = self.out.weight.reshape(channels, self.heads, channels)  # (C, h, C of head)
        told = torch.einsum("had,chd->cha", self.values(anchors), w_o).flatten(1)  # (C, h A)
        return torch.baddbmm(self.out.bias[:, None], told.expand(batch, -1, -1), weight)
