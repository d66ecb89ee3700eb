"""What may leave a table's cell."""

import pytest

from polyclinic.importing.cells import (
    age_between,
    capped_age,
    capped_ages,
    coded,
    kept_column,
    says_age,
)

IDS = [f"id{n}" for n in range(12)]


@pytest.mark.parametrize(
    "cell", ["1", "-1.5", "1,5", "<5", "> 0.1", "1e3", "045Y", "90+", "NA", ""]
)
def test_numbers_limits_and_ages_are_kept(cell: str) -> None:
    cells = ["1"] * 11 + [cell]
    assert kept_column(cells, IDS) == (["1"] * 11 + [cell if cell != "NA" else ""], "", 0)


@pytest.mark.parametrize("cell", ["forty", "see Dr KANARI", "=1+1", "2020-01-01", "@cmd", "id11"])
def test_a_word_among_numbers_becomes_blank_and_is_counted(cell: str) -> None:
    assert kept_column(["1"] * 11 + [cell], IDS) == (["1"] * 11 + [""], "", 1)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([f"name {n}" for n in range(12)], "free text"),
        (["a code that is much too long for a code"] * 12, "free text"),
        (["seen by Dr. Meyer on 0.0"] * 12, "free text"),
        (["no acute finding", "acute"] * 6 + ["ask for Kanari"], "free text"),
        (["2020-01-31"] * 12, "dates"),
        (["31.01.2020 08:00"] * 12, "dates"),
        ([f"202001{n + 10}" for n in range(12)], "dates"),
        (IDS, "patient ids"),
        (["Meier Anna", "Huber Karl", "Kanari S", "Li Wei"] + [""] * 8, "free text"),
        ([str(10_000_000 + 137 * n) for n in range(12)], "numbers of cases"),
        ([f"079{n:07d}" for n in range(12)], "numbers of cases"),
    ],
)
def test_names_remarks_dates_and_ids_are_dropped(cells: list[str], why: str) -> None:
    assert kept_column(cells, [*IDS, "id12"][: len(cells)]) == ([], why, 0)


def test_a_column_of_numbers_that_are_the_ids_is_dropped() -> None:
    numbers = [str(n) for n in range(12)]
    assert kept_column(numbers, numbers)[1] == "patient ids"


def test_codes_that_repeat_are_kept_but_for_ids_dates_and_formulas() -> None:
    cells = ["ill", "well"] * 4 + ["id3", "2020-01-01", "=HYPERLINK()", "-"]
    assert kept_column(cells, IDS) == (["ill", "well"] * 4 + [""] * 4, "", 3)


def test_b14_no_cell_begins_like_a_formula() -> None:
    cells = ["ill", "well"] * 4 + ["=a", "+a", "-a", "@a"]
    kept = kept_column(cells, IDS)[0]
    assert not any(c.startswith(("=", "+", "-", "@", "\t")) for c in kept)


def test_a_remark_among_codes_becomes_blank_however_often_it_repeats() -> None:
    cells = ["pleural effusion", "normal"] * 4 + ["seen by Dr. Meyer"] * 4
    assert kept_column(cells, IDS) == (["pleural effusion", "normal"] * 4 + [""] * 4, "", 4)
    # Unless the plan lists it as a code.
    listed = ("pleural effusion", "normal", "seen by Dr. Meyer")
    assert coded(cells, listed) == (cells, "", 0)


def test_listed_codes_and_their_combinations_are_kept_whatever_they_look_like() -> None:
    long = "a code that is much too long for a code"
    kept = coded([long, f"b|{long}", "b; c", "KANARI", ""], (long, "b", "c"))
    assert kept == ([long, f"b|{long}", "b; c", "", ""], "", 1)


@pytest.mark.parametrize(("cell", "kept"), [("89", "89"), ("90", "90+"), ("104.5", "90+"),
                                            ("095Y", "90+"), ("18M", "18M"), ("", "")])  # fmt: skip
def test_b13_ages_above_89_are_one_group(cell: str, kept: str) -> None:
    assert capped_age(cell) == kept


@pytest.mark.parametrize(
    ("born", "at", "age"),
    [
        ("1950-06-30", "2020-06-29", "69"),
        ("30.06.1950", "30.06.2020", "70"),
        ("19500630", "2020-06-30T08:00", "70"),
        ("1920-01-01", "2020-01-01", "90+"),
        ("2020-01-02", "2020-01-01", ""),
        ("03/04/1950", "2020-01-01", ""),  # March or April: not guessed
        ("", "2020-01-01", ""),
        ("1800-01-01", "2020-01-01", ""),
    ],
)
def test_an_age_is_whole_years_between_two_dates(born: str, at: str, age: str) -> None:
    assert age_between(born, at) == age


def test_whole_numbers_that_measure_are_no_numbers_of_cases() -> None:
    platelets = [str(151_000 + 7_000 * n) for n in range(12)]
    load = [str(9 * 10**n) for n in range(12)]
    assert [kept_column(c, IDS)[1] for c in (platelets, load)] == ["", ""]


@pytest.mark.parametrize("cell", [">95", "> 89Y", "<=101", "≥90"])
def test_b13_a_bound_above_89_is_of_the_same_group(cell: str) -> None:
    assert capped_age(cell) == ("90+" if cell != "> 89Y" else cell)


def test_b13_a_column_is_one_of_ages_by_a_word_of_its_name() -> None:
    named = ("age", "AGE_YEARS", "patient.age", "Alter bei Aufnahme")
    others = ("dosage", "stage", "image", "page_2x")
    assert [says_age(n) for n in (*named, *others)] == [True] * 4 + [False] * 4


def test_numbers_that_are_no_years_are_not_taken_for_ages() -> None:
    assert capped_ages(["45", "97", "", "89"]) == ["45", "90+", "", "89"]
    assert capped_ages(["196", "97"]) == ["196", "97"]  # days of a pregnancy
