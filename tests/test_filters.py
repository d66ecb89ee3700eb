"""Filters of a decoder are numbered by name, and a personal one tells nothing."""

import numpy as np
import pytest

from polyclinic.errors import StudyError
from polyclinic.exchange import Tensors
from polyclinic.filters import (
    MASK,
    WEIGHT,
    FilterLayout,
    filters_fault,
    layout_of,
    personal_rows_are_zero,
    without_personal_rows,
)

SHAPES = {
    "enc.a.weight": (9, 9),
    "dec.b.weight": (1, 4),
    "dec.a.bias": (2,),
    "dec.a.weight": (2, 3, 1),
    "store.total": (1,),
}


def _update(personal: int | None = 0) -> Tensors:
    """An update of three filters, of which one is personal."""
    full = {n: np.full(s, -2, np.float32) for n, s in SHAPES.items() if n.startswith("dec.")}
    mask = np.ones(3, np.uint8)
    if personal is not None:
        mask[personal] = 0
    sent = without_personal_rows(full, mask)
    return sent | {MASK: mask, WEIGHT: mask.astype(np.float32) * 0.5}


def test_filters_are_numbered_through_the_weights_in_order_of_their_names() -> None:
    layout = FilterLayout.of(SHAPES)
    assert layout.size == 3
    assert layout.slices == {"dec.a": slice(0, 2), "dec.b": slice(2, 3)}


def test_a_bias_has_the_rows_of_its_weight_and_other_tensors_none() -> None:
    layout = FilterLayout.of(SHAPES)
    assert layout.rows("dec.a.bias") == layout.rows("dec.a.weight") == slice(0, 2)
    assert layout.rows("dec.b.bias") == slice(2, 3)
    assert layout.rows("enc.a.weight") is None


def test_the_order_is_that_of_names_whatever_order_they_come_in() -> None:
    names = sorted(SHAPES, reverse=True)
    assert FilterLayout.of({n: SHAPES[n] for n in names}) == FilterLayout.of(SHAPES)


def test_without_a_decoder_there_are_no_filters() -> None:
    assert FilterLayout.of({"enc.a.weight": (2, 2)}).size == 0
    assert FilterLayout.of({}).slices == {}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dec.c.bias", (2,)),
        ("dec.a.scale", (2,)),
        ("dec.c.weight", ()),
        ("dec.b.bias", (2,)),
        ("dec.b.bias", ()),
    ],
    ids=["bias alone", "neither", "no rows", "another length", "a bias without rows"],
)
def test_a_decoder_of_anything_but_convolutions_is_refused(
    name: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(StudyError, match=name):
        FilterLayout.of({**SHAPES, name: shape})


def test_personal_rows_are_taken_out_in_copies_and_leave_no_sign() -> None:
    full = {n: np.full(s, -2, np.float32) for n, s in SHAPES.items()}
    sent = without_personal_rows(full, np.array([1, 0, 1], np.uint8))
    assert sent["dec.a.weight"][:, :, 0].tolist() == [[-2, -2, -2], [0, 0, 0]]
    assert sent["dec.a.bias"].tolist() == [-2, 0]
    assert not np.signbit(sent["dec.a.bias"][1])
    assert sent["enc.a.weight"] is full["enc.a.weight"]
    assert full["dec.a.bias"].tolist() == [-2, -2]


@pytest.mark.parametrize("personal", [None, 0, 1, 2])
def test_an_honest_update_has_no_fault(personal: int | None) -> None:
    update = _update(personal)
    assert filters_fault(update) == ""
    assert personal_rows_are_zero(update, update[MASK])


def test_an_update_without_a_mask_is_not_looked_at() -> None:
    assert filters_fault({"dec.recon.weight": np.ones((2, 2), np.float32)}) == ""
    assert filters_fault({"dec.odd": np.ones(2, np.float32)}) == ""


FAULTS = {
    "a row": lambda u: u["dec.a.weight"].__setitem__((0, 1, 0), 1e-30),
    "a bias": lambda u: u["dec.a.bias"].__setitem__(0, 1.0),
    "a sign": lambda u: u["dec.a.weight"].__setitem__((0, 1, 0), -0.0),
    "a NaN": lambda u: u["dec.a.weight"].__setitem__((0, 1, 0), np.nan),
    "a weight of a personal filter": lambda u: u[WEIGHT].__setitem__(0, 0.5),
    "a negative weight": lambda u: u[WEIGHT].__setitem__(1, -0.5),
    "a weight that is infinite": lambda u: u[WEIGHT].__setitem__(1, np.inf),
    "a mask with a 2": lambda u: u[MASK].__setitem__(1, 2),
    "a longer mask": lambda u: u.update({MASK: np.append(u[MASK], np.uint8(1))}),
    "a shorter mask": lambda u: u.update({MASK: u[MASK][:2], WEIGHT: u[WEIGHT][:2]}),
    "a table for a mask": lambda u: u.update({MASK: u[MASK][None]}),
    "weights of other filters": lambda u: u.update({WEIGHT: u[WEIGHT][:2]}),
    "weights without a mask": lambda u: u.pop(MASK),
    "a tensor of no filter": lambda u: u.update({"dec.odd": np.zeros(2, np.float32)}),
}


@pytest.mark.parametrize("spoil", FAULTS.values(), ids=FAULTS.keys())
def test_whatever_tells_something_of_a_personal_filter_is_found(spoil: object) -> None:
    update = _update()
    spoil(update)  # type: ignore[operator]
    with np.errstate(invalid="ignore"):
        assert filters_fault(update) != ""


def test_the_layout_of_tensors_is_that_of_their_shapes() -> None:
    tensors = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
    assert layout_of(tensors) == FilterLayout.of(SHAPES)
