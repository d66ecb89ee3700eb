"""Calibration of features by cross-attention to anchors."""

import math

import pytest
import torch
from torch import Tensor, nn

from polyclinic.models.scan.calibration import CrossAttention

B, C, A, HEADS = 2, 8, 6, 4
SPACE = (5, 4, 3)


def attention(chunk: int = 1 << 16, dropout: float = 0.0, residual: bool = False) -> CrossAttention:
    torch.manual_seed(0)
    module = CrossAttention(C, HEADS, dropout=dropout, residual=residual, chunk=chunk)
    for weight in module.parameters():  # far from the start, where nothing would be seen
        nn.init.normal_(weight, std=0.3)
    return module


def case() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(B, C, *SPACE), torch.randn(A, C)


def by_the_formula(module: CrossAttention, features: Tensor, anchors: Tensor) -> Tensor:
    """Voxels first, head by head, in the order of the paper."""
    rows = features.movedim(1, -1).reshape(-1, C)
    q, k, v = module.query(rows), module.key(anchors), module.value(anchors)
    heads = []
    for part in range(HEADS):
        of = slice(part * C, (part + 1) * C)
        heads.append((q[:, of] @ k[:, of].T / math.sqrt(C)).softmax(1) @ v[:, of])
    out = module.out(torch.cat(heads, dim=1))
    return out.reshape(B, *SPACE, C).movedim(-1, 1)


def test_the_calibration_is_the_formula() -> None:
    module, (features, anchors) = attention(), case()
    expected = by_the_formula(module, features, anchors)
    torch.testing.assert_close(module(features, anchors), expected, rtol=1e-4, atol=1e-5)


def test_a_residual_adds_the_feature() -> None:
    features, anchors = case()
    without, with_it = attention()(features, anchors), attention(residual=True)(features, anchors)
    torch.testing.assert_close(with_it, features + without)


def test_b11_before_the_output_projection_a_voxel_is_a_convex_combination_of_values() -> None:
    module, (features, anchors) = attention(), case()
    weight, values = module.attention(features.flatten(2), anchors), module.values(anchors)
    assert weight.shape == (B, HEADS, A, math.prod(SPACE))
    assert values.shape == (HEADS, A, C)
    assert (weight >= 0).all()
    torch.testing.assert_close(weight.sum(2), torch.ones(B, HEADS, math.prod(SPACE)))
    combined = torch.einsum("bhas,had->bshd", weight, values).flatten(2)  # (B, S, h C)
    projected = module.out(combined).movedim(2, 1).reshape(features.shape)
    torch.testing.assert_close(module(features, anchors), projected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_the_size_of_a_chunk_changes_neither_result_nor_gradient(chunk: int) -> None:
    results = []
    for size in (1 << 16, chunk):
        module, (features, anchors) = attention(size), case()
        features.requires_grad_()
        out = module(features, anchors)
        out.square().sum().backward()
        results.append((out, features.grad, module.query.weight.grad))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan")])
def test_what_stands_in_an_unknown_anchor_does_not_matter(garbage: float) -> None:
    module, (features, anchors) = attention(), case()
    known = torch.tensor([True, False, True, True, False, False])
    dirty = torch.where(known[:, None], anchors, torch.tensor(garbage))
    torch.testing.assert_close(module(features, dirty, known), module(features, anchors[known]))


def test_with_one_known_anchor_every_voxel_gets_the_same() -> None:
    module, (features, anchors) = attention(), case()
    out = module(features, anchors, torch.arange(A) == 2).flatten(2)
    torch.testing.assert_close(out, out[:1, :, :1].expand_as(out))


def test_weights_start_small_and_biases_at_0() -> None:
    torch.manual_seed(0)
    module = CrossAttention(16, 8, dropout=0.1, residual=False, chunk=1024)
    for layer in (module.query, module.key, module.value, module.out):
        assert float(layer.weight.detach().std()) == pytest.approx(0.001, rel=0.1)
        assert not layer.bias.any()


def test_dropout_acts_in_training_only() -> None:
    module, (features, anchors) = attention(dropout=0.5), case()
    assert not torch.equal(module(features, anchors), module(features, anchors))
    module.eval()
    assert torch.equal(module(features, anchors), module(features, anchors))


def test_chunks_computed_again_drop_the_same_weights() -> None:
    module, (features, anchors) = attention(chunk=7, dropout=0.5), case()
    out = module(features.requires_grad_(), anchors)
    # Of a map that is linear in W_o: <out, 1> - bias = <W_o, gradient>, if both drop the same.
    out.sum().backward()
    assert module.out.weight.grad is not None
    linear = (module.out.weight * module.out.weight.grad).sum()
    bias = module.out.bias.sum() * B * math.prod(SPACE)
    torch.testing.assert_close(linear + bias, out.sum(), rtol=1e-4, atol=1e-4)
