"""Pictures: comparable with one another, and never cut."""

import pytest

from polyclinic.evaluation.pictures import auroc_limits


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([], (0.5, 1.0)),
        ([0.7, 0.99], (0.5, 1.0)),
        ([0.5], (0.5, 1.0)),
        ([0.43, 0.9], (0.4, 1.0)),
        ([-0.2], (0.0, 1.0)),
        ([float("nan"), 0.8], (0.5, 1.0)),
    ],
)
def test_auroc_is_drawn_from_a_coins_toss_to_one_and_lower_where_a_value_is(values, limits):
    assert auroc_limits(values) == limits
