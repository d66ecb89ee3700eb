"""Who the anchor site is, and that an unknown anchor tells nothing."""

import numpy as np
import pytest

from polyclinic.anchor_site import KNOWN, anchors_fault, elected

WANTED = ("flair", "t1")
OFFERS = {"west": ("flair", "t1"), "north": ("flair",), "east": ("t1", "flair", "other")}
LEVEL = "store.anchor.l1"
GOOD = {
    KNOWN: np.array([1, 0], np.float32),
    LEVEL: np.array([[3.0, -1.0], [0.0, 0.0]], np.float32),
}


def test_the_first_by_name_that_holds_every_modality_is_elected() -> None:
    assert elected(OFFERS, WANTED) == "east"
    assert elected({"north": ("flair",)}, WANTED) == ""
    assert elected({}, WANTED) == ""


def test_where_one_is_named_it_is_that_one_or_none() -> None:
    assert elected(OFFERS, WANTED, "west") == "west"
    assert elected(OFFERS, WANTED, "north") == ""
    assert elected(OFFERS, WANTED, "south") == ""


def test_known_anchors_and_zeros_have_no_fault() -> None:
    assert anchors_fault(GOOD) == ""
    assert anchors_fault({}) == ""
    assert anchors_fault({"enc.a.w": np.ones(2, np.float32)}) == ""


FAULTS = {
    "an unknown anchor": {LEVEL: np.ones((2, 2), np.float32)},
    "a sign of an unknown anchor": {LEVEL: np.array([[1.0, 1.0], [0.0, -0.0]], np.float32)},
    "a vote of one half": {KNOWN: np.array([1, 0.5], np.float32)},
    "more anchors than votes": {LEVEL: np.ones((3, 2), np.float32)},
    "a table of votes": {KNOWN: np.ones((1, 2), np.float32)},
}


@pytest.mark.parametrize("change", FAULTS.values(), ids=FAULTS.keys())
def test_whatever_tells_something_of_an_unknown_anchor_is_found(change: dict) -> None:
    assert anchors_fault(GOOD | change) != ""


def test_anchors_that_do_not_say_which_are_known_are_refused() -> None:
    assert anchors_fault({LEVEL: GOOD[LEVEL]}) != ""
