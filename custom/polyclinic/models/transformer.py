"""A vision transformer from a grey picture (B, 1, H, W) to a vector (B, width).

Dosovitskiy et al., "An image is worth 16x16 words", arXiv 2010.11929. The blocks are MONAI's. The
tokens are averaged in place of a class token, and positions are a layer of their own: what a study
draws from its seed, and what takes a gradient per patient, are layers, never loose parameters.
"""

import torch
from monai.networks.blocks import TransformerBlock
from torch import Tensor, nn

# Spread of the start of positions, as in the paper's code.
START = 0.02


class Positions(nn.Module):
    """Adds a learned vector to each token."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(tokens, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the start."""
        nn.init.trunc_normal_(self.value, std=START)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        return tokens + self.value


class VisionTransformer(nn.Module):
    """Patches, positions, blocks, mean over tokens.

    Args:
        size: height and width of a picture, multiples of ``patch``.
    """

    def __init__(
        self, size: tuple[int, int], patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.positions = Positions((size[0] // patch) * (size[1] // patch), width)
        self.blocks = nn.Sequential(*(_block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, width)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (B, N, width)
        h: Tensor = self.norm(self.blocks(self.positions(tokens)))
        return h.mean(dim=1)


def _block(width: int, heads: int) -> nn.Module:
    block = TransformerBlock(width, 4 * width, heads, use_flash_attention=True)
    # Only cross-attention would use it; a weight without a gradient has none per patient either.
    block.norm_cross_attn = nn.Identity()
    return block  # type: ignore[no-any-return]
