"""Losses of a segmentation with missing sequences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polyclinic.models.scan import ScanOutput
from polyclinic.objectives.segmentation import (
    dice_loss,
    segmentation_loss,
    weighted_cross_entropy,
)

B, C, SPACE = 2, 3, (4, 3, 2)


def case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    probability = torch.randn(B, C, *SPACE, generator=generator).softmax(1)
    return probability, torch.randint(0, C, (B, *SPACE), generator=generator)


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, C).movedim(-1, 1).float()


def test_cross_entropy_of_four_voxels_by_hand() -> None:
    p = torch.tensor([[[0.9, 0.4, 0.8, 0.001], [0.1, 0.6, 0.2, 0.999]]])
    labels = torch.tensor([[0, 0, 0, 1]])
    # w = (1/4, 3/4): a class weighs as much as the share of voxels that are not of it.
    zero = 0.25 * (math.log(0.9) + math.log(0.4) + math.log(0.8))
    expected = -(zero + 0.75 * math.log(0.999)) / 4
    assert weighted_cross_entropy(p, labels).tolist() == pytest.approx([expected])


def test_a_probability_below_the_clip_costs_no_more_than_at_it() -> None:
    labels = torch.tensor([[0, 1]])
    costs = [
        weighted_cross_entropy(torch.tensor([[[p, 0.0], [1 - p, 1.0]]]), labels).item()
        for p in (0.0, 0.005)
    ]
    assert costs[0] == costs[1] == pytest.approx(-0.5 * math.log(0.005) / 2)


def test_dice_by_hand() -> None:
    p = torch.tensor([[[0.5, 1.0], [0.5, 0.0]]])
    labels = torch.tensor([[0, 1]])
    expected = 1 - 0.5 * (2 * 0.5 / (1.5 + 1) + 2 * 0.0 / (0.5 + 1))
    assert dice_loss(p, labels).tolist() == pytest.approx([expected])


def test_b13_a_perfect_prediction_has_dice_loss_0() -> None:
    _, labels = case()
    assert dice_loss(one_hot(labels), labels).abs().max() < 1e-6
    assert weighted_cross_entropy(one_hot(labels), labels).abs().max() == 0


@pytest.mark.parametrize("loss", [dice_loss, weighted_cross_entropy])
def test_a_class_that_is_not_in_a_crop_leaves_loss_and_gradient_finite(loss: object) -> None:
    logits = torch.zeros(1, C, *SPACE, requires_grad=True)
    value = loss(logits.softmax(1), torch.zeros(1, *SPACE, dtype=torch.int64))  # type: ignore[operator]
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [dice_loss, weighted_cross_entropy])
def test_a_patient_does_not_depend_on_the_others(loss: object) -> None:
    p, labels = case()
    alone = torch.cat([loss(p[i : i + 1], labels[i : i + 1]) for i in range(B)])  # type: ignore[operator]
    torch.testing.assert_close(loss(p, labels), alone)  # type: ignore[operator]


def both(p: Tensor, labels: Tensor) -> Tensor:
    return weighted_cross_entropy(p, labels) + dice_loss(p, labels)


def test_the_loss_sums_fusion_regions_and_the_sequences_a_patient_has() -> None:
    p, labels = case()
    levels, alone = (p.flip(1), p.roll(1, 1)), p.roll(1, 0)
    present = {"t1": torch.tensor([True, False]), "t2": torch.tensor([True, True])}
    output = ScanOutput(p, levels, {"t1": alone, "t2": p}, ())
    expected = both(p, labels) + both(levels[0], labels) + both(levels[1], labels)
    expected += both(alone, labels) * torch.tensor([1.0, 0.0]) + both(p, labels)
    torch.testing.assert_close(segmentation_loss(output, labels, present), expected)


def test_nothing_of_an_absent_sequence_reaches_loss_or_gradient() -> None:
    p, labels = case()
    alone = torch.full_like(p, 0.5).requires_grad_()
    present = {"t1": torch.tensor([False, True])}
    segmentation_loss(ScanOutput(p, (), {"t1": alone}, ()), labels, present).sum().backward()
    assert alone.grad is not None
    assert not alone.grad[0].any()
    assert alone.grad[1].any()


def test_one_patients_nan_stays_with_that_patient() -> None:
    p, labels = case()
    broken = torch.cat([torch.full_like(p[:1], float("nan")), p[1:]])
    loss = segmentation_loss(ScanOutput(broken, (broken,), {}, ()), labels, {})
    assert torch.isfinite(loss).tolist() == [False, True]
