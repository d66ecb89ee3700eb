"""MILES: the rule by which a dominant modality learns more slowly (invariants D1 to D4, D7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.objectives.miles import gap, multipliers, utilisation

SCORES = st.floats(min_value=0.01, max_value=1.0)


def test_eq4_utilisation_is_what_the_joint_head_loses_without_a_modality() -> None:
    # S_all = .8; without A there is B's head, .6; without B there is A's, .7.
    used = utilisation(0.8, {"a": 0.6, "b": 0.7})
    assert used == pytest.approx({"a": 0.25, "b": 0.125})


@given(SCORES, SCORES, SCORES)
def test_d4_the_gap_of_two_is_the_relative_gap_of_their_heads(
    joint: float, a: float, b: float
) -> None:
    assert gap(utilisation(joint, {"a": b, "b": a})) == pytest.approx(abs(a - b) / joint)


@given(SCORES, SCORES, st.floats(0.0, 1.0), st.floats(0.01, 0.99))
def test_d1_equal_heads_change_nothing(joint: float, s: float, tau: float, mu: float) -> None:
    used = utilisation(joint, {"a": s, "b": s})
    assert multipliers(used, tau=tau, mu=mu) == {"a": 1.0, "b": 1.0}


@given(
    SCORES,
    st.dictionaries(st.sampled_from("abcdef"), SCORES, min_size=1, max_size=6),
    st.floats(0.0, 1.0),
    st.floats(0.01, 0.99),
)
def test_d2_at_most_one_modality_is_slowed(
    joint: float, without: dict[str, float], tau: float, mu: float
) -> None:
    rates = multipliers(utilisation(joint, without), tau=tau, mu=mu)
    assert set(rates) == set(without)
    assert set(rates.values()) <= {1.0, mu}
    assert sum(r == mu for r in rates.values()) <= 1


def test_d3_nothing_changes_while_every_head_beats_the_joint_one() -> None:
    used = utilisation(0.5, {"a": 0.6, "b": 0.9})
    assert all(u < 0 for u in used.values())
    assert gap(used) > 0.2
    assert multipliers(used, tau=0.2, mu=0.5) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("joint", "s_a", "s_b"), [(0.8, 0.9, 0.5), (0.8, 0.5, 0.9), (0.9, 0.85, 0.5)]
)
def test_the_modality_whose_absence_costs_most_is_slowed(
    joint: float, s_a: float, s_b: float
) -> None:
    # Signs (+, -), (-, +) and (+, +): the better head's modality dominates.
    rates = multipliers(utilisation(joint, {"a": s_b, "b": s_a}), tau=0.2, mu=0.5)
    assert rates == ({"a": 0.5, "b": 1.0} if s_a > s_b else {"a": 1.0, "b": 0.5})


@given(SCORES, SCORES, SCORES)
def test_d7_swapping_the_names_swaps_the_factors(joint: float, x: float, y: float) -> None:
    one = multipliers(utilisation(joint, {"a": x, "b": y}), tau=0.1, mu=0.5)
    other = multipliers(utilisation(joint, {"a": y, "b": x}), tau=0.1, mu=0.5)
    assert (one["a"], one["b"]) == (other["b"], other["a"])


def test_a_gap_of_tau_is_not_enough() -> None:
    assert multipliers({"a": 0.5, "b": 0.25}, tau=0.25, mu=0.5) == {"a": 1.0, "b": 1.0}
    assert multipliers({"a": 0.5, "b": 0.25}, tau=0.24, mu=0.5) == {"a": 0.5, "b": 1.0}


def test_a_joint_score_of_zero_and_a_single_modality_change_nothing() -> None:
    assert utilisation(0.0, {"a": 0.5, "b": 0.1}) == {}
    assert multipliers({}, tau=0.2, mu=0.5) == {}
    assert multipliers({"a": 0.9}, tau=0.2, mu=0.5) == {"a": 1.0}


def test_with_three_modalities_the_one_most_missed_is_slowed() -> None:
    used = utilisation(0.9, {"a": 0.85, "b": 0.5, "c": 0.88})
    assert multipliers(used, tau=0.2, mu=0.25) == {"a": 1.0, "b": 0.25, "c": 1.0}
