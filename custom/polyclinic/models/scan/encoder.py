"""The encoder of one sequence, and the layers that the whole network is made of.

Liu et al., "FedMEPD" (arXiv 2603.04887), on the network of Ding et al., "RFNet" (ICCV 2021).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Dims = Literal[2, 3]
SLOPE = 0.2
# Filters in a vector register: a CPU takes twice as long over fewer unless channels come last.
NARROW = 16


class Filters2d(nn.Conv2d):
    """A 2-D convolution that starts from He's normal distribution, as in the authors' code."""

    def reset_parameters(self) -> None:
        """Draw afresh; nothing on the meta device, where drawing costs time for no values."""
        if not self.weight.is_meta:
            super().reset_parameters()  # the bias
            nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, *S) -> (B, outer, *S / stride)."""
        if self.out_channels < NARROW and self.kernel_size[0] > 1:
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x).contiguous()


class Filters3d(nn.Conv3d):
    """The same in 3-D."""

    def reset_parameters(self) -> None:
        """Draw afresh; nothing on the meta device, where drawing costs time for no values."""
        if not self.weight.is_meta:
            super().reset_parameters()  # the bias
            nn.init.kaiming_normal_(self.weight)


def filters(dims: Dims, inner: int, outer: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    """A convolution that keeps the size, or divides it by the stride."""
    kind = Filters3d if dims == 3 else Filters2d
    # The authors' layers are told to pad by reflection, but do not pass it on: zeros.
    return kind(inner, outer, kernel, stride=stride, padding=kernel // 2)


class Block(nn.Module):
    """leaky(norm(conv(x))), the norm over one patient's channel and with nothing learned."""

    def __init__(
        self, dims: Dims, inner: int, outer: int, kernel: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = filters(dims, inner, outer, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, *S) -> (B, outer, *S / stride)."""
        h: Tensor = self.conv(x)
        # A group a channel is an instance normalisation, in half of the time on a CPU.
        return F.leaky_relu(F.group_norm(h, h.shape[1]), SLOPE)


class EncoderLevel(nn.Module):
    """x = f(x); x + h(g(x))."""

    def __init__(self, dims: Dims, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = Block(dims, inner, outer, 3, stride)
        self.second = Block(dims, outer, outer, 3)
        self.third = Block(dims, outer, outer, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, *S) -> (B, outer, *S / stride)."""
        h: Tensor = self.first(x)
        out: Tensor = h + self.third(self.second(h))
        return out


class SequenceEncoder(nn.Module):
    """Maps one sequence (B, 1, *S) to its features (B, C_l, *S_l), level 1 first."""

    def __init__(self, dims: Dims, channels: Sequence[int]) -> None:
        super().__init__()
        self.level = nn.ModuleDict(
            {
                str(level): EncoderLevel(dims, inner, outer, stride=1 if level == 1 else 2)
                for level, (inner, outer) in enumerate(pairwise((1, *channels)), start=1)
            }
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """F_1, F_2, ..."""
        features = []
        for level in self.level.values():
            x = level(x)
            features.append(x)
        return tuple(features)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Linear interpolation of (B, C, *S) that keeps the corners where they are, (B, C, *size).

    To a size and not by a factor: the same where edges divide, and right where they do not. The
    authors' code crops there. An axis at a time and as a matrix product: the same numbers as
    ``F.interpolate(..., align_corners=True)`` in a third of the time on a CPU, and on a GPU a
    gradient that is the same every time.
    """
    for axis in reversed(range(2, x.dim())):
        before, after = x.shape[axis], size[axis - 2]
        if before == after:
            continue
        mix = _interpolation(before, after, x.device).to(x.dtype)
        if axis == x.dim() - 1:
            x = x @ mix.T
        else:
            rest = x.shape[axis + 1 :]
            x = (mix @ x.flatten(axis + 1)).reshape(*x.shape[:axis], after, *rest)
    return x


def _interpolation(before: int, after: int, device: torch.device) -> Tensor:
    """The weights of ``before`` places for ``after`` places, (after, before); rows sum to 1."""
    place = torch.arange(after, device=device) * ((before - 1) / max(after - 1, 1))
    away = (place[:, None] - torch.arange(before, device=device)).abs()
    return (1.0 - away).clamp(min=0.0)


def level_sizes(size: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """Edges at levels 1, 2, ...; a stride of 2 rounds up."""
    sizes = [tuple(size)]
    for _ in range(levels - 1):
        sizes.append(tuple((edge + 1) // 2 for edge in sizes[-1]))
    return sizes
