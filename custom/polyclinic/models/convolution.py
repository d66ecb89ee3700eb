"""Convolutional networks from a grey picture (B, 1, H, W) to a vector (B, width).

All are built so that a gradient per patient can be taken (Opacus): group normalisation by default,
nothing in place, residuals added and not accumulated. None keeps statistics of a batch, unless a
study asks for ``batch``: averaged over hospitals they describe none of them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, cast

from monai.networks.nets import DenseNet121
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

FeatureNorm = Literal["group", "batch"]
RESNET_WIDTH, DENSENET_WIDTH = 512, 1024
GROUPS = 8


def norm_layer(norm: FeatureNorm) -> Callable[[int], nn.Module]:
    """Makes the normalisation of a number of channels that ``GROUPS`` divides."""
    return nn.BatchNorm2d if norm == "batch" else lambda width: nn.GroupNorm(GROUPS, width)


class Compact(nn.Module):
    """A small network for small pictures and a CPU: a stride of 2 and two convolutions a stage.

    The second convolution of a stage works channel by channel, so that a wider view costs little.
    """

    def __init__(self, widths: Sequence[int], norm: FeatureNorm) -> None:
        super().__init__()
        make = norm_layer(norm)
        stages: list[nn.Module] = []
        for before, after in pairwise((1, *widths)):
            stages += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                make(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1, groups=after, bias=False),
                make(after),
                nn.ReLU(),
            ]
        self.stages = nn.Sequential(*stages)
        self.width = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, width)."""
        h: Tensor = self.stages(x)  # (B, width, H / 2^stages, W / 2^stages)
        return h.mean(dim=(2, 3))


class Residual(BasicBlock):  # type: ignore[misc]
    """ResNet's basic block with out-of-place residuals, He et al. arXiv 1512.03385."""

    def forward(self, x: Tensor) -> Tensor:
        """relu(F(x) + x)."""
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return cast(Tensor, self.relu(h + (x if self.downsample is None else self.downsample(x))))


def resnet18(norm: FeatureNorm) -> nn.Module:
    """torchvision's ResNet-18 for one channel, with its names of weights; (B, 512)."""
    network = ResNet(Residual, [2, 2, 2, 2], norm_layer=norm_layer(norm))
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    network.fc = nn.Identity()
    return out_of_place(network)


def densenet121(norm: FeatureNorm) -> nn.Module:
    """MONAI's DenseNet-121 for one channel; (B, 1024)."""
    named = "batch" if norm == "batch" else ("group", {"num_groups": GROUPS})
    network = DenseNet121(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        act=("relu", {"inplace": False}),
        norm=named,
    )
    network.class_layers.out = nn.Identity()
    return cast(nn.Module, network)


def out_of_place(network: nn.Module) -> nn.Module:
    """The same network without activations that overwrite their input."""
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return network
