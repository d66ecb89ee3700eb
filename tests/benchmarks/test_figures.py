"""The benchmarks' arithmetic on cases worked out by hand."""

import pytest
from figures import beyond_training, per_round, spread, step_seconds


def test_a_round_costs_its_length_less_the_training_of_its_slowest_site() -> None:
    # Rounds end at 10, 13 and 14.5; they last 3 and 1.5; the slowest sites train 2 and 1.
    ends = {1: 10.0, 2: 13.0, 3: 14.5}
    training = {1: {"a": 9.0}, 2: {"a": 1.0, "b": 2.0}, 3: {"a": 1.0, "b": 0.5}}
    assert beyond_training(ends, training) == pytest.approx([1.0, 0.5])


def test_rounds_are_taken_in_order_however_they_were_read() -> None:
    ends = {3: 14.5, 1: 10.0, 2: 13.0}
    training = {2: {"a": 2.0}, 3: {"a": 1.0}}
    assert beyond_training(ends, training) == pytest.approx([1.0, 0.5])


def test_bytes_before_the_first_round_and_after_the_last_do_not_count() -> None:
    # Two rounds between 10 and 14: 30 + 50 up, so 40 each; 7 down is not up.
    passed = [(9.0, "up", 999), (10.0, "up", 30), (13.0, "up", 50), (13.0, "down", 7)]
    passed.append((14.0, "up", 999))
    ends = {1: 10.0, 2: 12.0, 3: 14.0}
    assert per_round(ends, passed, "up") == 40.0
    assert per_round(ends, passed, "down") == 3.5


def test_the_spread_of_three_numbers() -> None:
    assert spread([1.0, 2.0, 6.0]) == {"median": 2.0, "mean": 3.0, "min": 1.0, "max": 6.0}


def test_steps_are_read_from_the_demo_s_own_lines() -> None:
    text = "clean clean\n  0.1 s\nup nvflare poc\nwrote a page\n  told\n  19.5 s\n"
    assert step_seconds(text + "clean clean\n  6.2 s\ndone in 26 s\n") == {"clean": 6.3, "up": 19.5}
