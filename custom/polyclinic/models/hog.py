"""Oriented gradients of a film: a description that is computed, not learned.

Histograms of oriented gradients as in N. Dalal and B. Triggs, "Histograms of oriented gradients for
human detection", CVPR 2005: centred differences [-1, 0, 1] without smoothing, orientations in
[0°, 180°) shared between the two nearest of nine bins, blocks of 2 x 2 cells that overlap by half,
and L2-Hys: length 1, no entry above .2, length 1 again. What differs: cells are whole multiples of
pixels of a film already made small (16 of 128, theirs 8), a pixel counts in its own cell only
(theirs is shared between neighbouring cells), and no Gaussian weighs the pixels of a block.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 2  # cells along the edge of a block
LARGEST = 0.2  # entry of a block of length 1
# A contrast that counts, in units of a film's spread: noise in black borders stays small.
EPSILON = 1e-2


def hog_width(size: tuple[int, int], cell: int, orientations: int) -> int:
    """Length of the description of a film of this size."""
    rows, columns = (edge // cell - BLOCK + 1 for edge in size)
    return rows * columns * BLOCK * BLOCK * orientations


class Hog(nn.Module):
    """Maps (B, 1 + K, H, W) to (B, width + K) without any weight.

    The film is the first channel. The K others are planes that say one thing each (early fusion):
    a constant has no gradient, so the mean of each is a further entry.

    Guarantees:
    - A film's description depends on no other film, and not on its brightness; of its contrast
      only as far as a block is all but blank.
    - The entries of a film have mean 0 and spread 1, whatever its size.
    """

    def __init__(self, cell: int, orientations: int) -> None:
        super().__init__()
        self.cell, self.orientations = cell, orientations

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + K, H, W) -> (B, width + K)."""
        with torch.no_grad():  # nothing here learns, and no film needs a gradient
            found = hog(x[:, 0], self.cell, self.orientations)
            found = F.layer_norm(found, found.shape[1:])
            return torch.cat([found, x[:, 1:].mean(dim=(2, 3))], dim=1)


def hog(films: Tensor, cell: int, orientations: int) -> Tensor:
    """Oriented gradients (B, width) of films (B, H, W), by block, then cell, then orientation."""
    cells = histograms(films, cell, orientations)
    columns = F.unfold(cells, BLOCK)  # (B, 4 O, blocks)
    blocks = columns.transpose(1, 2).reshape(-1, columns.shape[2], orientations, BLOCK**2)
    blocks = blocks.transpose(2, 3).flatten(2)  # (B, blocks, 4 O)
    clipped = _shortened(blocks).clamp(max=LARGEST)
    return _shortened(clipped).flatten(1)


def histograms(films: Tensor, cell: int, orientations: int) -> Tensor:
    """Mean gradient of the pixels of a cell by orientation; (B, O, H / cell, W / cell).

    Bin i stands for the angle i · 180° / O of the gradient, from the x axis towards the y axis; a
    pixel is shared between the two bins nearest to it. The edge is repeated outwards, so that it
    has no gradient of its own.
    """
    padded = F.pad(films[:, None], (1, 1, 1, 1), mode="replicate")
    dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    strength = torch.hypot(dx, dy)  # (B, 1, H, W)
    place = (torch.atan2(dy, dx) * (orientations / math.pi)).remainder(orientations)  # in bins
    bins = []
    for i in range(orientations):
        share = near(place, i) if i else near(place, 0) + near(place, orientations)
        bins.append(F.avg_pool2d(share * strength, cell))
    return torch.cat(bins, dim=1)


def near(place: Tensor, i: int) -> Tensor:
    """1 at bin i, less beside it, 0 from one bin away."""
    return F.relu(1 - (place - i).abs())


def _shortened(blocks: Tensor) -> Tensor:
    """Blocks (..., E) of length 1, shorter where there is next to nothing."""
    return blocks / blocks.square().sum(-1, keepdim=True).add(EPSILON**2).sqrt()
