"""From features of sequences to class probabilities: the fused decoder and the auxiliary one.

FedMEPD, arXiv 2603.04887. Level 1 has the highest resolution; decoding starts at the last one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from polyclinic.models.scan.encoder import Block, Dims, filters, resize
from polyclinic.models.scan.fusion import RegionFusion, RegionProbability
from polyclinic.models.scan.settings import ScanNetwork

# (level, features) -> features of the same shape.
Calibrate = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Decoded:
    """What the fused decoder gives; of the levels, level 1 first.

    Attributes:
        probability: (B, R, *S).
        regions: p of each level, (B, R, *S), upsampled.
        features: fused, before calibration; (B, C_l, *S_l).
    """

    probability: Tensor
    regions: tuple[Tensor, ...]
    features: tuple[Tensor, ...]


class Climb(nn.Module):
    """One level up: ``reduce`` what is below, ``join`` it with what is here."""

    def __init__(self, dims: Dims, channels: int) -> None:
        super().__init__()
        self.reduce = Block(dims, 2 * channels, channels, 3)
        self.join = Block(dims, 2 * channels, channels, 3)
        self.out = Block(dims, channels, channels)

    def raised(self, below: Tensor, size: Sequence[int]) -> Tensor:
        """(B, 2 C, *S / 2) -> (B, C, *S)."""
        out: Tensor = self.reduce(resize(below, size))
        return out

    def joined(self, one: Tensor, other: Tensor) -> Tensor:
        """Two of (B, C, *S) -> (B, C, *S)."""
        out: Tensor = self.out(self.join(torch.cat([one, other], dim=1)))
        return out


def _climb(climbs: nn.ModuleDict, level: int) -> Climb:
    return cast(Climb, climbs[str(level)])


def _climbs(settings: ScanNetwork) -> nn.ModuleDict:
    below_top = enumerate(settings.channels[:-1], start=1)
    return nn.ModuleDict({str(level): Climb(settings.dims, c) for level, c in below_top})


class AuxiliaryDecoder(nn.Module):
    """Class probabilities from one sequence alone: one decoder for all sequences of a site.

    It makes every encoder learn, also one that the fused decoder could do without. It never leaves
    its site.
    """

    def __init__(self, settings: ScanNetwork, classes: int) -> None:
        super().__init__()
        self.climb = _climbs(settings)
        self.classify = filters(settings.dims, settings.width, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """F_1, F_2, ... (B, C_l, *S_l) -> (B, R, *S)."""
        h = features[-1]
        for level in range(len(features) - 1, 0, -1):
            climb, here = _climb(self.climb, level), features[level - 1]
            h = climb.joined(climb.raised(h, here.shape[2:]), here)
        return torch.softmax(self.classify(h), dim=1)


class FusionDecoder(nn.Module):
    """Class probabilities from all sequences; every parameter is a convolution's weight or bias."""

    def __init__(self, settings: ScanNetwork, classes: int, slots: int) -> None:
        super().__init__()
        dims, last = settings.dims, settings.levels
        levels = list(enumerate(settings.channels, start=1))
        self.region = nn.ModuleDict(
            {
                str(level): RegionProbability(dims, c, classes, slots, lowest=level == last)
                for level, c in levels
            }
        )
        self.fuse = nn.ModuleDict(
            {str(level): RegionFusion(dims, c, classes, slots) for level, c in levels}
        )
        self.climb = _climbs(settings)
        self.classify = filters(dims, settings.width, classes)

    def forward(self, features: Sequence[Tensor], calibrate: Calibrate) -> Decoded:
        """F_1, F_2, ... (B, K, C_l, *S_l), 0 where a sequence is absent -> everything decoded."""
        regions: list[Tensor] = []
        fused: list[Tensor] = []
        h: Tensor | None = None
        for level in range(len(features), 0, -1):
            y, name = features[level - 1], str(level)
            below = None if h is None else _climb(self.climb, level).raised(h, y.shape[3:])
            p = self.region[name](y, below)
            # Detached: where a class is must not be learned from how sequences are fused there.
            z = self.fuse[name](y, p.detach())
            if below is not None:
                z = _climb(self.climb, level).joined(z, below)
            # This is the feature that anchors are means of and that queries them, in the code too
            # (fusion_x4 after the fusion, fusion_x3 to fusion_x1 after joining with the level
            # below): after `out` of the level, before calibration.
            fused.insert(0, z)
            regions.insert(0, resize(p, features[0].shape[3:]))
            h = calibrate(level, z)
        return Decoded(torch.softmax(self.classify(h), dim=1), tuple(regions), tuple(fused))
