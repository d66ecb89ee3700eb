"""Cross-entropy and class weights."""

import math

import torch

from polyclinic.objectives.task import class_weights, probabilities, task_loss


def test_binary_loss_is_minus_log_of_the_labels_probability() -> None:
    logits, labels = torch.tensor([[0.0], [math.log(3.0)]]), torch.tensor([0, 1])
    # sigmoid(0) = 1/2; sigmoid(ln 3) = 3/4
    expected = torch.tensor([-math.log(0.5), -math.log(0.75)])
    torch.testing.assert_close(task_loss(logits, labels), expected)


def test_three_classes_use_softmax() -> None:
    logits, labels = torch.tensor([[0.0, 0.0, math.log(2.0)]]), torch.tensor([2])
    # softmax = (1, 1, 2) / 4
    torch.testing.assert_close(task_loss(logits, labels), torch.tensor([-math.log(0.5)]))
    expected = torch.tensor([[0.25, 0.25, 0.5]])
    torch.testing.assert_close(probabilities(logits), expected)


def test_balanced_classes_have_the_same_total_weight() -> None:
    weights = class_weights(torch.tensor([0, 0, 0, 1]), 2)
    torch.testing.assert_close(weights, torch.tensor([4 / 6, 4 / 2]))
    assert 3 * weights[0] == weights[1]


def test_a_class_nobody_has_does_not_change_the_others_weight() -> None:
    torch.testing.assert_close(class_weights(torch.tensor([0, 0]), 2), torch.ones(2))


def test_smoothing_moves_the_target_towards_one_half() -> None:
    logits, labels = torch.tensor([[math.log(3.0)]]), torch.tensor([1])
    # target 0.8 + 0.1 = 0.9
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    torch.testing.assert_close(task_loss(logits, labels, smoothing=0.2), torch.tensor([expected]))


def test_two_class_probabilities_sum_to_one() -> None:
    found = probabilities(torch.tensor([[math.log(3.0)]]))
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75]]))
