"""What the guard says of masks, weights, personal rows and anchors."""

from typing import Any

import numpy as np
import pytest

from flare.counting import STUDY
from flare.plugins.stepping import ANCHOR_LEAKS, FILTER_LEAKS, KNOWN, LEAKS, LEVEL, contract
from polyclinic.filters import MASK, WEIGHT, without_personal_rows
from polyclinic.flare.convert import Reply
from polyclinic.flare.guard import Refused, UpdateGuard
from polyclinic.study import parse_study

CONTRACT = contract(parse_study(STUDY))
GUARD = UpdateGuard(CONTRACT)
HELD, COUNTS = ("cnv", "wsi"), {"n": 20.0}


def _trained(**changes: Any) -> Reply:
    """A site's update; filter 0 is personal. Underscores of names stand for dots."""
    mask = np.array([0, 1, 1], np.uint8)
    names = CONTRACT.names_for(HELD, "train") - {MASK, WEIGHT}
    moved = {n: np.ones(CONTRACT.specs[n].shape, np.float32) for n in names}
    sent = without_personal_rows(moved, mask) | {MASK: mask, WEIGHT: mask.astype(np.float32)}
    sent |= {n.replace("__", "."): a for n, a in changes.items()}
    return Reply("WEIGHT_DIFF", sent, {"n": 20.0, "t": 2.0})


def _stepped(**scalars: float) -> Reply:
    """The anchor site's update."""
    names = CONTRACT.names_for(HELD, "anchor")
    sent = {n: np.ones(CONTRACT.specs[n].shape, np.float32) for n in names}
    sent |= {KNOWN: np.array([1, 0], np.float32), LEVEL: np.array([[2, 2], [0, 0]], np.float32)}
    return Reply("WEIGHT_DIFF", sent, {"t": 2.0} | scalars)


def _reason(reply: Reply, way: str = "train", held: tuple[str, ...] = HELD) -> str:
    check = GUARD.check if way == "train" else GUARD.check_anchor
    with pytest.raises(Refused) as caught:
        check(reply, held, COUNTS, 2)
    return caught.value.reason


def test_a_good_update_with_a_mask_passes_as_it_is() -> None:
    reply = _trained()
    update = GUARD.check(reply, HELD, COUNTS, 2)
    assert update.tensors[MASK] is reply.tensors[MASK]
    assert update.tensors[MASK].dtype == np.uint8


def test_the_anchor_sites_update_passes_and_needs_no_patients_to_weigh() -> None:
    assert GUARD.check_anchor(_stepped(), HELD, COUNTS, 2).scalars == {}
    assert GUARD.check_anchor(_stepped(n=20.0), HELD, COUNTS, 2).scalars == {"n": 20.0}
    assert _reason(_stepped(n=21.0), "anchor") == "weight"


REASONS = {"a mask that is too long": "shape", "a mask with a 2": "magnitude", "no mask": "names"}


@pytest.mark.parametrize("leak", FILTER_LEAKS)
def test_p12_an_update_that_tells_of_a_personal_filter_is_refused(leak: str) -> None:
    reply = _trained()
    LEAKS[leak](reply.tensors)
    assert _reason(reply) == REASONS.get(leak, "mask")


@pytest.mark.parametrize("leak", ANCHOR_LEAKS)
def test_p12_an_anchor_that_is_not_known_is_refused(leak: str) -> None:
    reply = _stepped()
    LEAKS[leak](reply.tensors)
    assert _reason(reply, "anchor") == "anchors"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (MASK, np.array([0, 1, 1], np.float32), "dtype"),
        (MASK, np.array([0, 1, 1], bool), "dtype"),
        (MASK, np.array([0, 255, 1], np.uint8), "magnitude"),
        (WEIGHT, np.array([0, -0.5, 1], np.float32), "mask"),
        (WEIGHT, np.array([0, np.nan, 1], np.float32), "not_finite"),
        (WEIGHT, np.array([0, 11, 1], np.float32), "magnitude"),
        (WEIGHT, np.array([0, 1], np.float32), "shape"),
    ],
)
def test_masks_and_weights_are_held_to_their_contract(
    name: str, value: object, reason: str
) -> None:
    assert _reason(_trained(**{name.replace(".", "__"): value})) == reason


def test_a_message_of_the_other_way_is_refused() -> None:
    assert _reason(_trained(), "anchor") == "names"
    stepped = _stepped(n=20.0)
    assert _reason(stepped) == "names"


def test_what_only_the_server_says_is_refused_either_way() -> None:
    total = np.ones(1, np.float32)
    assert _reason(_trained(store__total=total)) == "names"
    reply = _stepped()
    reply.tensors["store.total"] = total
    assert _reason(reply, "anchor") == "names"


def test_the_step_of_another_round_or_of_a_site_without_every_modality_is_refused() -> None:
    assert _reason(_stepped(t=1.0), "anchor") == "stale"
    assert _reason(_stepped(), "anchor", ("cnv",)) == "names"
