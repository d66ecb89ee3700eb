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


NAN = float("nan")


def test_the_loss_of_several_labels_is_the_mean_over_those_that_are_known() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0, 5.0], [0.0, math.log(3.0), math.log(3.0)]])
    labels = torch.tensor([[1.0, 0.0, NAN], [NAN, NAN, 0.0]])
    # sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2
    expected = torch.tensor([-(math.log(0.75) + math.log(0.5)) / 2, -math.log(0.25)])
    torch.testing.assert_close(task_loss(logits, labels), expected)


def test_an_unknown_label_gets_no_gradient_whatever_its_logit() -> None:
    for strange in (5.0, math.inf, NAN):
        logits = torch.tensor([[0.3, strange]], requires_grad=True)
        task_loss(logits, torch.tensor([[1.0, NAN]])).sum().backward()
        assert logits.grad is not None
        assert logits.grad[0, 1] == 0.0
        torch.testing.assert_close(logits.grad[0, 0], torch.sigmoid(torch.tensor(0.3)) - 1.0)


def test_with_all_labels_known_the_loss_is_torchs_own() -> None:
    logits, labels = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, labels, reduction="none"
    ).mean(1)
    torch.testing.assert_close(task_loss(logits, labels), expected)


def test_a_patient_of_whom_no_label_is_known_costs_nothing() -> None:
    logits = torch.ones(1, 2, requires_grad=True)
    loss = task_loss(logits, torch.full((1, 2), NAN))
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_each_label_is_balanced_over_the_patients_for_whom_it_is_known() -> None:
    labels = torch.tensor([[1.0, NAN], [0.0, NAN], [0.0, NAN], [0.0, NAN], [NAN, NAN]])
    weights = class_weights(labels, 0)
    # 4 known, 3 no and 1 yes: 4 / (2 * 3) and 4 / (2 * 1); nobody knows the second label.
    torch.testing.assert_close(weights, torch.tensor([[4 / 6, 2.0], [1.0, 1.0]]))
    logits = torch.zeros(2, 2)
    found = task_loss(logits, labels[:2], weights)
    torch.testing.assert_close(found, math.log(2.0) * torch.tensor([2.0, 4 / 6]))


def test_smoothing_moves_the_target_of_a_known_label_alone() -> None:
    logits, labels = torch.tensor([[math.log(3.0), 2.0]]), torch.tensor([[1.0, NAN]])
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    torch.testing.assert_close(task_loss(logits, labels, smoothing=0.2), torch.tensor([expected]))


def test_each_label_has_a_probability_of_its_own() -> None:
    found = probabilities(torch.tensor([[math.log(3.0), 0.0]]), multi_label=True)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.5]]))
