"""Values as a person reads them."""

import pytest

from polyclinic.evaluation import wording


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_400_000, "2.4 MB")]
)
def test_sizes_are_told_in_a_unit_a_person_reads(count, told):
    assert wording.size(count) == told


def test_a_time_is_told_in_utc_and_anything_else_as_it_is():
    assert wording.moment("2026-03-01T15:05:59.123+01:00") == "2026-03-01 14:05 UTC"
    assert wording.moment("=now()") == "'=now()"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\t=1"])
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text):
    assert wording.cell(text).startswith("'")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_no_number_is_a_dash_and_a_negative_one_has_a_minus_sign(value):
    assert wording.score(value) == wording.NOTHING
    assert wording.score(-0.5, 1) == "\N{MINUS SIGN}0.5"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("polyclinic.algorithms.fedmm.Server", "FedMM"),
        ("polyclinic.algorithms.of_mine.Server", "of_mine"),
        ("", ""),
    ],
)
def test_an_algorithm_is_told_as_papers_write_it_or_by_its_module(path, told):
    assert wording.algorithm(path) == told
