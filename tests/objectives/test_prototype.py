"""FedMM's prototype terms."""

import itertools
import math

import pytest
import torch

from polyclinic.objectives.prototype import (
    EmbeddingStatistics,
    prototype_weight,
    pull,
    separation,
)

EVERYONE = torch.tensor([True, True])


def test_a1_lambda_is_one_half_at_t0_and_rises_within_zero_and_one() -> None:
    values = [prototype_weight(t, alpha=0.05, t0=30) for t in range(1, 501)]

    assert values[29] == 0.5
    assert all(0.0 < v < 1.0 for v in values)
    rising = list(itertools.pairwise(values))
    assert all(later > earlier for earlier, later in rising)


def test_lambda_has_the_papers_values() -> None:
    # 1 / (1 + e^-x) with x = 0.05 (t - 30): -1.45, -1, 1.5, 3.5
    for t, x in ((1, -1.45), (10, -1.0), (60, 1.5), (100, 3.5)):
        expected = 1.0 / (1.0 + math.exp(-x))
        assert prototype_weight(t, alpha=0.05, t0=30) == pytest.approx(expected, rel=1e-12)


def test_a2_alpha_zero_keeps_lambda_at_one_half() -> None:
    assert {prototype_weight(t, alpha=0.0, t0=30) for t in (1, 30, 10_000)} == {0.5}


def test_lambda_does_not_overflow() -> None:
    assert prototype_weight(-10_000, alpha=5.0, t0=30) == 0.0
    assert prototype_weight(10_000, alpha=5.0, t0=30) == 1.0


def test_the_pull_is_the_mean_squared_distance_to_the_labels_prototype() -> None:
    h = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    prototypes = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    labels = torch.tensor([0, 1])
    # (0 + 4) / 2 and (9 + 16) / 2
    found = pull(h, EVERYONE, prototypes, EVERYONE, labels)
    torch.testing.assert_close(found, torch.tensor([2.0, 12.5]))
    # 2 / 2 and 5 / 2
    found = pull(h, EVERYONE, prototypes, EVERYONE, labels, norm="l2")
    torch.testing.assert_close(found, torch.tensor([1.0, 2.5]))


@pytest.mark.parametrize("norm", ["squared", "l2"])
def test_a6_at_the_prototype_there_is_no_pull_and_no_gradient(norm: str) -> None:
    prototypes = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    h = prototypes.clone().requires_grad_()

    found = pull(h, EVERYONE, prototypes, EVERYONE, torch.tensor([0, 1]), norm=norm)
    found.sum().backward()

    assert (found == 0).all()
    assert h.grad is not None
    assert (h.grad == 0).all()


def test_a_patient_without_modality_or_prototype_is_not_pulled() -> None:
    h, labels = torch.ones(2, 2), torch.tensor([0, 1])
    prototypes = torch.zeros(2, 2)
    absent = pull(h, torch.tensor([False, True]), prototypes, EVERYONE, labels)
    assert absent.tolist() == [0.0, 1.0]
    unknown = pull(h, EVERYONE, prototypes, torch.tensor([True, False]), labels)
    assert unknown.tolist() == [1.0, 0.0]


def test_statistics_over_batches_are_those_of_all_patients() -> None:
    torch.manual_seed(0)
    h, labels = torch.randn(9, 3), torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1])
    present = torch.tensor([True] * 7 + [False, True])
    found = EmbeddingStatistics.empty(3, 3)
    for part in (slice(0, 4), slice(4, 9)):
        found.add(h[part], present[part], labels[part])

    seen, of = h[present].double(), labels[present]
    expected = torch.stack([seen[of == 0].mean(0), seen[of == 1].mean(0), torch.zeros(3)])
    torch.testing.assert_close(found.means, expected.double())
    assert found.class_count.tolist() == [4, 4, 0]
    assert found.mean_square == pytest.approx(float(seen.square().mean()))
    assert found.variance == pytest.approx(float(seen.var(0, correction=0).mean()))


def test_separation_is_the_distance_over_the_norm() -> None:
    prototypes = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [99.0, 0.0]])
    known = torch.tensor([True, True, False])
    # norms 5 and 5, distance 10
    assert separation(prototypes, known) == (5.0, 2.0)
    assert separation(prototypes, torch.tensor([True, False, False])) == (5.0, 0.0)
    assert separation(prototypes, torch.zeros(3, dtype=torch.bool)) == (0.0, 0.0)
