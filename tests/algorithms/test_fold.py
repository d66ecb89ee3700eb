"""The mean that does not see the order of arrival."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from polyclinic.algorithms.fold import CHUNK, KeyedMean
from polyclinic.errors import ContractViolation


def exact_mean(values: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Σ w x / Σ w in rational numbers, rounded once to float32."""
    total = sum(Fraction(w) for w in weights)
    columns = zip(*[v.tolist() for v in values], strict=True)
    exact = [
        sum(Fraction(w) * Fraction(x) for w, x in zip(weights, column, strict=True)) / total
        for column in columns
    ]
    return np.array([np.float32(float(x)) for x in exact])


def test_the_mean_is_weighted_over_the_sites_that_sent_the_name() -> None:
    mean = KeyedMean()
    mean.add("a", "x", np.float32([1.0, 2.0]), 1.0)
    mean.add("b", "x", np.float32([5.0, 6.0]), 3.0)
    mean.add("b", "y", np.float32([9.0]), 3.0)

    assert mean.mean("x").tolist() == [4.0, 5.0]  # (1 + 15) / 4, (2 + 18) / 4
    assert mean.mean("y").tolist() == [9.0]
    assert mean.names() == {"x", "y"}


def test_no_order_of_arrival_changes_a_bit() -> None:
    draw = np.random.default_rng(0)
    # Sizes from 1e-6 to 1e3 with cancellation: plain float64 sums differ by order here.
    values = [(draw.normal(size=50) * 10.0 ** draw.integers(-6, 4, 50)) for _ in range(5)]
    values = [v.astype(np.float32) for v in values]
    weights = [11.0, 137.0, 3.0, 1e6, 42.0]
    results = []
    for order in itertools.permutations(range(5)):
        mean = KeyedMean()
        for i in order:
            mean.add(f"site{i}", "x", values[i], weights[i])
        results.append(mean.mean("x"))

    assert all(np.array_equal(r, results[0]) for r in results)
    np.testing.assert_array_equal(results[0].astype(np.float32), exact_mean(values, weights))


def test_cancellation_leaves_the_small_rest() -> None:
    mean = KeyedMean()
    for site, value in (("a", 1e8), ("b", 1e-8), ("c", -1e8)):
        mean.add(site, "x", np.float32([value]))
    assert mean.mean("x")[0] == float(np.float32(1e-8)) / 3


def test_rows_of_weight_zero_do_not_vote() -> None:
    mean = KeyedMean()
    mean.add("a", "p", np.float32([[3.0], [0.0]]), np.array([1.0, 0.0]))
    mean.add("b", "p", np.float32([[9.0], [7.0]]), np.array([1.0, 1.0]))

    assert mean.mean("p").tolist() == [[6.0], [7.0]]
    assert mean.weight("p").tolist() == [2.0, 1.0]


def test_chunks_are_summed_like_one_array() -> None:
    mean, value = KeyedMean(), np.arange(2 * CHUNK + 3, dtype=np.float32)
    mean.add("a", "x", value, 1.0)
    mean.add("b", "x", value, 1.0)
    np.testing.assert_array_equal(mean.mean("x"), value)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_that_is_no_number_of_zero_or_more_is_refused(weight: float) -> None:
    with pytest.raises(ContractViolation):
        KeyedMean().add("a", "x", np.zeros(1, np.float32), weight)


def test_a_site_counts_once_per_name_and_with_one_shape() -> None:
    mean = KeyedMean()
    mean.add("a", "x", np.zeros(2, np.float32))
    with pytest.raises(ContractViolation):
        mean.add("a", "x", np.zeros(2, np.float32))
    with pytest.raises(ContractViolation):
        mean.add("b", "x", np.zeros(1, np.float32))  # would broadcast


def test_weights_of_zero_give_zero_and_not_a_division() -> None:
    mean = KeyedMean()
    mean.add("a", "x", np.float32([5.0]), 0.0)
    assert mean.mean("x").tolist() == [0.0]
