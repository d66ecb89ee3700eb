from hypothesis import given
from hypothesis import strategies as st

from polyclinic.data.suppression import cell, quartiles, suppressed


def test_small_counts_are_hidden_and_large_ones_shown() -> None:
    assert suppressed({"a": 3, "b": 40, "c": 0}, 11) == {"a": "<11", "b": 40, "c": "<11"}
    assert (cell(10, 11), cell(11, 11)) == ("<11", 11)


def test_a_single_gap_is_widened_so_that_the_total_does_not_fill_it() -> None:
    assert suppressed({"a": 3, "b": 40, "c": 20}, 11) == {"a": "<11", "b": 40, "c": "hidden"}


def test_one_group_alone_has_nothing_to_hide_behind() -> None:
    assert suppressed({"a": 3}, 11) == {"a": "<11"}
    assert suppressed({"a": 11, "b": 12}, 11) == {"a": 11, "b": 12}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=6), st.integers(1, 20))
def test_never_exactly_one_of_several_is_hidden_and_no_small_count_is_shown(counts, least) -> None:
    shown = suppressed(counts, least)
    hidden = [n for n in shown.values() if isinstance(n, str)]
    assert len(hidden) != 1 or len(counts) == 1
    assert all(n >= least for n in shown.values() if not isinstance(n, str))


def test_quartiles_are_told_of_groups_that_are_large_enough() -> None:
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0], 5) == {"q1": 2.0, "median": 3.0, "q3": 4.0}
    assert quartiles([4.0, 1.0, 2.0, 3.0], 5) == {}
    assert quartiles([4.0], 1) == {}
