"""Region-aware fusion of sequences: where a class probably is decides which sequence counts there.

Ding, Yu, Yang, "RFNet: region-aware fusion network for incomplete multi-modal brain tumor
segmentation", ICCV 2021, as FedMEPD uses it. B patients, K sequences, C channels, R classes
("regions"), S voxels::

    y_k  features of sequence k, 0 where it is absent
    p_r  probability of class r, from all y_k and from the level below: RegionProbability
    g_rk = sigmoid(gate_r(mean_s(p_r y_k) / mean_s(p_r), mean_s(p_r)))
    z_r  = p_r sum_k g_rk y_k
    z    = [fusion(z_1, ..., z_R), shortcut(y_1, ..., y_K)]
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyclinic.models.scan.encoder import SLOPE, Block, Dims, filters

# As in the authors' code, whatever the width of the network.
GATE_HIDDEN, REGION_HIDDEN = 128, 16


class RegionProbability(nn.Module):
    """p (B, R, *S) from y (B, K, C, *S) and, unless at the lowest level, the features below."""

    def __init__(self, dims: Dims, channels: int, classes: int, slots: int, *, lowest: bool):
        super().__init__()
        narrow = channels // 4
        self.embed = nn.Sequential(
            Block(dims, slots * channels, narrow),
            Block(dims, narrow, narrow, 3),
            Block(dims, narrow, channels),
        )
        self.hidden = Block(dims, channels if lowest else 2 * channels, REGION_HIDDEN)
        self.out = filters(dims, REGION_HIDDEN, classes)

    def forward(self, y: Tensor, below: Tensor | None) -> Tensor:
        """Class probabilities at this level."""
        h: Tensor = self.embed(y.flatten(1, 2))  # (B, C, *S)
        if below is not None:
            h = torch.cat([below, h], dim=1)  # (B, 2 C, *S)
        return torch.softmax(self.out(self.hidden(h)), dim=1)


class Gate(nn.Module):
    """g_r (B, K) of one class from what its region holds, (B, K C + 1)."""

    def __init__(self, dims: Dims, channels: int, slots: int) -> None:
        super().__init__()
        self.dims = dims
        self.hidden = filters(dims, slots * channels + 1, GATE_HIDDEN)
        self.out = filters(dims, GATE_HIDDEN, slots)

    def forward(self, pooled: Tensor) -> Tensor:
        """How much each sequence counts, in (0, 1)."""
        point = pooled.reshape(*pooled.shape, *(1,) * self.dims)
        return torch.sigmoid(self.out(F.leaky_relu(self.hidden(point), SLOPE))).flatten(1)


class RegionFusion(nn.Module):
    """z (B, C, *S) from y (B, K, C, *S) and p (B, R, *S).

    The products p_r y_k are never there: their means and their sums over k are matrix products of
    p and of g with y, which gives the same numbers in 1 / K of the memory.
    """

    def __init__(self, dims: Dims, channels: int, classes: int, slots: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(Gate(dims, channels, slots) for _ in range(classes))
        self.fusion = _halving(dims, classes * channels, channels)
        self.shortcut = _halving(dims, slots * channels, channels)

    def forward(self, y: Tensor, p: Tensor) -> Tensor:
        """The fused features of a level."""
        weight = self.weights(y, p)  # (B, R, K)
        mixed = torch.einsum("brk,bkv->brv", weight, y.flatten(2))  # (B, R, C S)
        mixed = mixed.reshape(*mixed.shape[:2], *y.shape[2:])  # (B, R, C, *S)
        regions = (mixed * p[:, :, None]).flatten(1, 2)  # (B, R C, *S)
        return torch.cat([self.fusion(regions), self.shortcut(y.flatten(1, 2))], dim=1)

    def weights(self, y: Tensor, p: Tensor) -> Tensor:
        """g (B, R, K)."""
        flat, region = y.flatten(3), p.flatten(2)  # (B, K, C, S), (B, R, S)
        share = region.mean(2) + 1e-7  # (B, R)
        held = torch.einsum("bkcs,brs->brkc", flat, region) / region.shape[2]
        pooled = (held / share[:, :, None, None]).flatten(2)  # (B, R, K C)
        told = torch.cat([pooled, share[..., None]], dim=2)  # (B, R, K C + 1)
        return torch.stack([gate(told[:, r]) for r, gate in enumerate(self.gates)], dim=1)


def _halving(dims: Dims, inner: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        Block(dims, inner, channels),
        Block(dims, channels, channels, 3),
        Block(dims, channels, channels // 2),
    )
