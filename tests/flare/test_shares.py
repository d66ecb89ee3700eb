"""A site is cut off at its share of the patients, and only then."""

import math

import pytest

from polyclinic.flare.shares import ceiling


def test_a_share_of_one_believes_the_census() -> None:
    assert ceiling({"a": 1.0, "b": 1e5}, 1.0) == math.inf


def test_hospitals_that_are_merely_unlike_are_left_alone() -> None:
    # 379 of 379 + 47 + 210 is 0.596.
    assert ceiling({"a": 47.0, "b": 379.0, "c": 210.0}, 0.6) == math.inf


@pytest.mark.parametrize(
    ("sizes", "share", "cut"),
    [
        ((100.0, 100.0, 1e5), 0.5, 200.0),  # c = (c + 200) / 2
        ((10.0, 1e4, 1e5), 0.4, 20.0),  # two are cut off: c = 0.4 (2 c + 10)
        ((100.0, 200.0, 1e5), 1 / 3, 100.0),  # three can only be alike
        ((100.0, 1e5), 0.3, 100.0),  # too few for the share: alike
        ((0.0, 100.0, 1e5), 0.5, 100.0),  # who has no patients is no part of the mean
    ],
)
def test_the_largest_are_cut_off_at_their_share(
    sizes: tuple[float, ...], share: float, cut: float
) -> None:
    found = ceiling({str(i): n for i, n in enumerate(sizes)}, share)
    assert found == pytest.approx(cut, rel=1e-12)
    left = [min(n, found) for n in sizes if n > 0]
    assert max(left) / sum(left) <= max(share, 1 / len(left)) + 1e-12


def test_nobody_with_patients_is_nothing_to_cut() -> None:
    assert ceiling({"a": 0.0}, 0.5) == math.inf
