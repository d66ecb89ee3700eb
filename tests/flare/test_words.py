"""What an error may say: never a sentence about data."""

import pytest

from polyclinic.errors import PolyclinicError
from polyclinic.flare.child import TaskAborted, WorkerLost, WorkerTimeout
from polyclinic.flare.words import ABOUT_DATA, CODES, WITHHELD, leaving_words

SAYINGS = (
    "Expected at most 1.0% of 24 patients quarantined, got 1 (4.2%): bad_label 1; mend it.",
    "Patient Hans Mueller, born 12 April 1965, has no slide.",
    "MRN 98-76-54",
    "NHS 943 476 5919",
    "HMUELLER",
)


@pytest.mark.parametrize("code", ["data", "rejected"])
@pytest.mark.parametrize("message", SAYINGS)
def test_every_sentence_about_data_leaves_as_the_same_one(code: str, message: str) -> None:
    told = {"code": code, "owner": "data manager", "message": message, "incident": "0" * 12}
    assert leaving_words(told) == told | {"message": ABOUT_DATA}


@pytest.mark.parametrize("message", SAYINGS)
def test_of_an_exception_a_class_of_pythons_own_leaves_and_no_other_word(message: str) -> None:
    told = leaving_words({"code": "exception", "message": message})["message"]
    assert told == "An exception; its text stayed at the site."
    known = leaving_words({"code": "exception", "message": f"ValueError; {message}"})["message"]
    assert known == "ValueError; its text stayed at the site."


def test_numbers_computed_from_patients_stay() -> None:
    message = "Expected embeddings of 'cnv1' below 10.5, got 3.25e+06; none of 7 left (researcher)."
    told = leaving_words({"code": "diverged", "message": message})["message"]
    assert told == "Expected embeddings of 'cnv1' below …, got …; none of … left (researcher)."


@pytest.mark.parametrize("code", ["mueller_hans_1965", "data\n", "", None, ["data"]])
def test_an_unknown_code_takes_its_sentence_with_it(code: object) -> None:
    told = leaving_words({"code": code, "owner": "nobody", "message": "HMUELLER", "incident": "x"})
    assert told == {"message": WITHHELD}


@pytest.mark.parametrize("message", ["a\nforged line", "a\x1b[2Jb", "x" * 601])
def test_a_sentence_is_one_line_of_plain_text(message: str) -> None:
    assert leaving_words({"code": "site", "message": message})["message"] == WITHHELD


def test_every_error_of_ours_has_a_code_that_may_leave() -> None:
    kinds = [*PolyclinicError.__subclasses__(), WorkerLost, WorkerTimeout, TaskAborted]
    assert {k.code for k in kinds} <= CODES
