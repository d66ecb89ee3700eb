"""Region-aware fusion."""

import pytest
import torch
from torch import Tensor

from polyclinic.models.scan.encoder import Dims
from polyclinic.models.scan.fusion import RegionFusion, RegionProbability

B, K, C, R, EDGE = 2, 3, 4, 2, 4


def inputs(dims: Dims) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    space = (EDGE,) * dims
    return torch.randn(B, K, C, *space), torch.randn(B, R, *space).softmax(1)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_fusion_is_the_formula_with_every_product_written_out(dims: Dims) -> None:
    y, p = inputs(dims)
    module, space = RegionFusion(dims, C, R, K), tuple(range(3, 3 + dims))
    regions = []
    for r, gate in enumerate(module.gates):
        inside = y * p[:, None, r : r + 1]  # (B, K, C, *S)
        share = p[:, r].flatten(1).mean(1, keepdim=True) + 1e-7
        pooled = inside.mean(space).flatten(1) / share
        weight = gate(torch.cat([pooled, share], dim=1))  # (B, K)
        regions.append((inside * weight.reshape(B, K, *(1,) * (1 + dims))).sum(1))
    expected = torch.cat(
        [module.fusion(torch.cat(regions, dim=1)), module.shortcut(y.flatten(1, 2))], dim=1
    )
    torch.testing.assert_close(module(y, p), expected, rtol=1e-4, atol=1e-5)


def test_gates_are_between_0_and_1() -> None:
    weight = RegionFusion(3, C, R, K).weights(*inputs(3))
    assert weight.shape == (B, R, K)
    assert ((weight > 0) & (weight < 1)).all()


def test_a_class_that_is_nowhere_probable_is_finite() -> None:
    y, p = inputs(2)
    p = torch.stack([torch.ones_like(p[:, 0]), torch.zeros_like(p[:, 1])], dim=1)
    assert torch.isfinite(RegionFusion(2, C, R, K)(y, p)).all()


@pytest.mark.parametrize("lowest", [True, False])
def test_region_probabilities_sum_to_1(lowest: bool) -> None:
    y, _ = inputs(2)
    p = RegionProbability(2, C, R, K, lowest=lowest)(y, None if lowest else y[:, 0])
    assert p.shape == (B, R, EDGE, EDGE)
    torch.testing.assert_close(p.sum(1), torch.ones(B, EDGE, EDGE))
