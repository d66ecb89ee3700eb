"""Ids are one person's when a reader would say so."""

import time
import unicodedata

import numpy as np
import pytest
from tests.data.test_check import report_of

from polyclinic.data.cohort import open_cohort
from polyclinic.data.identity import as_id, twin_key
from polyclinic.errors import DataError

COMPOSED = "M\u00fcller"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (unicodedata.normalize("NFD", COMPOSED), COMPOSED),
        ("A\u200b1", "A1"),
        ("\ufeffA1", "A1"),
        ("A1\u00ad", "A1"),
        ("u\u200b\u0308x", "\u00fcx"),
        ("A\ufe0f1", "A1"),
        ("\uff211", "A1"),
        ("A\u00a0\t 1 ", "A 1"),
        ("A-1", "A-1"),
        (7.0, "7"),
        (None, ""),
        ("\u200b", ""),
    ],
)
def test_an_id_has_one_spelling(written: object, read: str) -> None:
    assert as_id(written) == read
    assert as_id(as_id(written)) == read


@pytest.mark.parametrize(
    ("one", "other"), [("Xy1", "xY1"), ("1", "1.0"), ("1", "001"), ("0", "00")]
)
def test_ids_that_differ_only_in_writing_are_twins(one: str, other: str) -> None:
    assert twin_key(one) == twin_key(other)


@pytest.mark.parametrize(("one", "other"), [("1", "10"), ("1", "1.5"), ("A1", "A01"), ("1", "A1")])
def test_ids_that_differ_in_more_are_two_people(one: str, other: str) -> None:
    assert twin_key(one) != twin_key(other)


def cohort(hospital, first: str, second: str, *, split: str, second_split: str = "test") -> None:
    """Twelve patients and two more under these ids."""
    ids = [f"p{i}" for i in range(12)]
    rows = [(p, ("yes", "no")[i % 2], ("train", "test")[i // 8]) for i, p in enumerate(ids)]
    rows += [(first, "yes", "train"), (second, "yes", second_split)]
    hospital.split = {"source": split}
    hospital.manifest(
        rows, "patient_id,outcome,split" if split == "manifest" else "patient_id,outcome,x"
    )
    hospital.vector("v", {p: (i, i * i, -i) for i, p in enumerate([*ids, first, second])})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (COMPOSED, unicodedata.normalize("NFD", COMPOSED)),
        ("A1", "A1\u200b"),
        ("Xy1", "xY1"),
        ("1", "1.0"),
    ],
    ids=["accents", "zero-width", "case", "number"],
)
def test_one_person_under_two_ids_in_train_and_test_is_a_leak(hospital, first, second) -> None:
    cohort(hospital, first, second, split="manifest")
    leaks = [f for f in report_of(hospital).findings if f.check == "leakage"]
    assert [(f.level, f.message[0]) for f in leaks] == [("failed", "1")]
    with pytest.raises(DataError):
        open_cohort(hospital.settings(), hospital.study())


def test_twins_that_the_manifest_keeps_together_are_a_warning(hospital) -> None:
    cohort(hospital, "Xy1", "xY1", split="manifest", second_split="train")
    report = report_of(hospital)
    assert [(f.level, f.message[0]) for f in report.findings if f.check == "twins"] == [
        ("warning", "1")
    ]
    assert report.ok


def test_twins_that_a_drawn_split_may_part_are_refused_without_an_id(hospital) -> None:
    cohort(hospital, "Xy1", "xY1", split="random")
    report = report_of(hospital)
    assert [f.level for f in report.findings if f.check == "twins"] == ["failed"]
    with pytest.raises(DataError, match="differ in more than case") as refusal:
        open_cohort(hospital.settings(), hospital.study())
    assert "y1" not in str(refusal.value).lower()


def test_a_table_may_spell_an_id_in_another_unicode_form(hospital) -> None:
    cohort(hospital, COMPOSED, "q", split="random")
    table = hospital.root / "v.csv"
    table.write_text(unicodedata.normalize("NFD", table.read_text()))
    opened = open_cohort(hospital.settings(), hospital.study())
    assert sum(opened.count(s, "v") for s in ("train", "validation", "test")) == 14


def test_a_slide_named_in_another_unicode_form_is_found(hospital) -> None:
    hospital.manifest([(COMPOSED, "yes"), *((f"p{i}", ("yes", "no")[i % 2]) for i in range(7))])
    bag = np.ones((2, 2), dtype=np.float32)
    names = [unicodedata.normalize("NFD", COMPOSED), *(f"p{i}" for i in range(7))]
    hospital.bags("b", {n: bag + i for i, n in enumerate(names)})
    opened = open_cohort(hospital.settings(), hospital.study())
    assert sum(opened.count(s, "b") for s in ("train", "validation", "test")) == 8


def test_an_id_of_a_hundred_thousand_zeros_takes_no_longer_than_its_length() -> None:
    # Time by the square of the length was 70 s at 40 000 characters; a cell may have 16 million.
    began = time.process_time()
    assert twin_key("0" * 100_000 + "x") == "0" * 100_000 + "x"
    assert twin_key("0" * 100_000 + "7.00") == "7"
    assert time.process_time() - began < 1.0


def test_a_byte_that_is_no_text_never_makes_two_names_one() -> None:
    latin = b"p\xe41".decode("utf-8", "surrogateescape")  # as Python names a file "pä1" of Latin-1
    assert as_id(latin) not in ("p1", as_id(b"p\xf61".decode("utf-8", "surrogateescape")))
    as_id(latin).encode()


def test_a_cell_of_a_hundred_thousand_accents_takes_no_minute() -> None:
    cell = "a" + "\u0315\u0300" * 100_000
    began = time.process_time()
    assert as_id(cell) == cell
    assert twin_key(cell) == cell
    assert time.process_time() - began < 1.0
