"""One cell becomes one number, or nothing with a cause."""

import math

import pytest

from polyclinic.data.cell import number, read_cell
from polyclinic.data.units import Conversion
from polyclinic.study import FieldRule

SAME = Conversion()
AGE = FieldRule(reads="age")
SEX = FieldRule(reads="category", category="F", among=("F", "M"))


@pytest.mark.parametrize(
    ("cell", "years"),
    [
        ("45", 45.0),
        ("45.0", 45.0),
        ("045Y", 45.0),
        ("45y", 45.0),
        ("018M", 1.5),
        ("003W", 21 / 365.25),
        ("010D", 10 / 365.25),
        ("0", 0.0),
        ("89", 89.0),
        ("089Y", 89.0),
        ("89.5", 90.0),
        ("95", 90.0),
        ("095Y", 90.0),
        ("90+", 90.0),
        ("90 +", 90.0),
        (">89", 90.0),
        ("> 89", 90.0),
        (">= 90", 90.0),
        ("≥90", 90.0),
    ],
)
def test_b13_an_age_is_in_years_and_over_89_one_group(cell: str, years: float) -> None:
    value, cause = read_cell(cell, AGE, SAME)
    assert value == pytest.approx(years, rel=1e-12)
    assert cause == ""


@pytest.mark.parametrize(
    ("cell", "cause"),
    [
        ("", "blank"),
        ("NA", "blank"),
        ("forty", "text"),
        ("45 years", "text"),
        ("1965-03-01", "text"),
        ("65+", "text"),  # an open group of younger people is no age
        ("<18", "text"),
        ("[40,50]", "text"),
        ("-1", "impossible_value"),
        ("130", "impossible_value"),
        ("300", "impossible_value"),
        ("999Y", "impossible_value"),
        ("inf", "infinite"),
        ("9999Y", "text"),
    ],
)
def test_b13_what_is_no_age_is_absent_with_its_cause(cell: str, cause: str) -> None:
    value, told = read_cell(cell, AGE, SAME)
    assert math.isnan(value)
    assert told == cause


def test_a_study_may_narrow_what_ages_are_possible() -> None:
    adults = FieldRule(reads="age", low=18)
    assert read_cell("17", adults, SAME)[1] == "impossible_value"
    assert read_cell("95", adults, SAME) == (90.0, "")


@pytest.mark.parametrize(
    ("cell", "value", "remark"),
    [
        ("<0.5", 0.5, "limit"),
        ("< 0.5", 0.5, "limit"),
        ("≤0.5", 0.5, "limit"),
        ("> 100", 100.0, "limit"),
        (">=1e3", 1000.0, "limit"),
        ("[3,5]", 4.0, "interval"),
        ("(3.0, 5.5]", 4.25, "interval"),
        ("[3;5]", 4.0, "interval"),
        ("[-inf, 0.3]", 0.3, "limit"),
        ("(100, inf)", 100.0, "limit"),
        ("-1.5", -1.5, ""),
    ],
)
def test_a_limit_counts_as_itself_and_an_interval_as_its_middle(
    cell: str, value: float, remark: str
) -> None:
    assert number(cell, decimal_comma=False) == (value, remark)


@pytest.mark.parametrize(
    "cell", ["<", "<LOD", "< low", "[5,3]", "[3]", "[3,4,5]", "[a,b]", "3-5", "[nan,3]", "<nan"]
)
def test_what_would_have_to_be_guessed_is_text(cell: str) -> None:
    value, cause = number(cell, decimal_comma=False)
    assert math.isnan(value)
    assert cause == "text"


@pytest.mark.parametrize("cell", ["-inf", "inf", "<inf", "[-inf, inf]"])
def test_an_infinite_limit_names_no_number(cell: str) -> None:
    value, cause = read_cell(cell, FieldRule(low=0), SAME)
    assert math.isnan(value)
    assert cause == "infinite"


def test_decimal_commas_stand_behind_signs_and_in_intervals_of_semicolons() -> None:
    assert number("<0,5", decimal_comma=True) == (0.5, "limit")
    assert number("[3,5;4,5]", decimal_comma=True) == (4.0, "interval")
    assert number("[3,5]", decimal_comma=True) == (4.0, "interval")  # a bracket holds two ends
    assert number("[3,5,4,5]", decimal_comma=True)[1] == "text"


def test_a_category_is_one_or_zero_and_another_cell_is_unknown() -> None:
    assert read_cell("F", SEX, SAME) == (1.0, "")
    assert read_cell("M", SEX, SAME) == (0.0, "")
    for cell, cause in {"": "blank", "NA": "blank", "f": "unknown_category"}.items():
        value, told = read_cell(cell, SEX, SAME)
        assert math.isnan(value)
        assert told == cause


def test_a_category_may_be_a_number_or_a_word_that_elsewhere_means_blank() -> None:
    stage = FieldRule(reads="category", category="2", among=("1", "2", "none"))
    assert [read_cell(c, stage, SAME)[0] for c in ("2", "2.0", "1", "none")] == [1, 1, 0, 0]


def test_a_number_outside_its_bounds_is_impossible_after_conversion() -> None:
    rule = FieldRule(low=30, high=43)
    celsius = Conversion(5 / 9, -160 / 9)
    value, cause = read_cell("98.6", rule, celsius)
    assert value == pytest.approx(37.0)
    assert cause == ""
    assert read_cell("37", rule, celsius)[1] == "impossible_value"  # 37 °F is 2.8 °C
    assert read_cell("30", rule, SAME) == (30.0, "")
    assert read_cell("43.1", rule, SAME)[1] == "impossible_value"
