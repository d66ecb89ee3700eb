"""The encoder of one sequence and its layers."""

import pytest
import torch
import torch.nn.functional as F

from polyclinic.models.scan.encoder import (
    Block,
    Dims,
    Filters3d,
    SequenceEncoder,
    level_sizes,
    resize,
)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("edge", [8, 9])
def test_every_level_halves_the_edges_and_rounds_up(dims: Dims, edge: int) -> None:
    features = SequenceEncoder(dims, (4, 8, 16))(torch.randn(2, 1, *(edge,) * dims))
    sizes = level_sizes((edge,) * dims, 3)
    assert [tuple(f.shape) for f in features] == [
        (2, channels, *size) for channels, size in zip((4, 8, 16), sizes, strict=True)
    ]
    assert sizes[-1] == (edge // 4 + edge % 2,) * dims


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_block_is_convolution_instance_norm_and_leaky_relu(dims: Dims, width: int) -> None:
    block, x = Block(dims, 3, width, 3, stride=2), torch.randn(2, 3, *(6,) * dims)
    conv = F.conv2d if dims == 2 else F.conv3d
    h = conv(x, block.conv.weight, block.conv.bias, stride=2, padding=1)  # type: ignore[operator]
    torch.testing.assert_close(block(x), F.leaky_relu(F.instance_norm(h), 0.2))


@pytest.mark.parametrize(
    ("before", "after"),
    [((3, 4), (6, 8)), ((3, 5), (5, 5)), ((2, 3, 4), (4, 6, 7)), ((1, 4), (2, 8))],
)
def test_resizing_is_linear_interpolation(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *before)
    mode = "bilinear" if len(before) == 2 else "trilinear"
    expected = F.interpolate(x, size=after, mode=mode, align_corners=True)
    torch.testing.assert_close(resize(x, after), expected)


def test_filters_start_from_hes_normal_distribution() -> None:
    torch.manual_seed(0)
    weight = Filters3d(32, 64, 3).weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (32 * 27)) ** 0.5, rel=0.02)
