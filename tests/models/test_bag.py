"""Attention pooling."""

import torch

from polyclinic import models
from polyclinic.models.bag import BagEncoder
from polyclinic.study import Modality


def encoder(**settings: object) -> BagEncoder:
    sizes = {"instance": [6], "attention": 4, "hidden": [6]}
    built = models.build("wsi", Modality(kind="bag", dim=3, encoder=sizes | settings), 5)
    assert isinstance(built, BagEncoder)
    return built.eval()


def test_weights_are_a_softmax_over_present_instances_eq8() -> None:
    model = encoder()
    h = torch.randn(1, 3, 6)
    there = torch.tensor([[True, True, False]])

    weights = model.attention(h, there)[0]

    score = torch.tanh(h[0] @ model.attention_v.weight.T + model.attention_v.bias)
    score = (score @ model.attention_w.weight.T + model.attention_w.bias)[:, 0]
    torch.testing.assert_close(weights[:2], torch.softmax(score[:2], 0))
    assert weights[2] == 0


def test_the_gate_of_eq9_multiplies_the_score() -> None:
    model = encoder(gated=True)
    assert model.attention_u is not None
    torch.nn.init.zeros_(model.attention_u.weight)
    torch.nn.init.constant_(model.attention_u.bias, -100.0)  # sigmoid = 0: every score is equal

    weights = model.attention(torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool))

    torch.testing.assert_close(weights, torch.full((1, 4), 0.25))


def test_the_order_of_instances_does_not_matter() -> None:
    model, x, there = encoder(), torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    order = torch.tensor([3, 1, 4, 0, 2])

    torch.testing.assert_close(model(x[:, order], there), model(x, there))


def test_padding_is_not_seen_whatever_stands_there() -> None:
    model, x = encoder(), torch.randn(1, 3, 3)
    alone = model(x, torch.ones(1, 3, dtype=torch.bool))
    for garbage in (0.0, 9.0, float("nan")):
        padded = torch.cat([x, torch.full((1, 2, 3), garbage)], dim=1)
        there = torch.tensor([[True] * 3 + [False] * 2])
        torch.testing.assert_close(model(padded, there), alone)


def test_an_empty_bag_is_finite_and_so_is_its_gradient() -> None:
    model = encoder()
    out = model(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))

    out.sum().backward()

    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_sqrt_n_divides_by_the_root_of_the_present_instances() -> None:
    plain, scaled = encoder(), encoder(attention_scale="sqrt_n")
    scaled.load_state_dict(plain.state_dict())
    h, there = torch.randn(1, 5, 6), torch.tensor([[True] * 4 + [False]])

    torch.testing.assert_close(scaled.attention(h, there), plain.attention(h, there) / 2.0)
