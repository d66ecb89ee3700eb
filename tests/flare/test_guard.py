"""An update is taken whole or refused whole."""

from typing import Any

import numpy as np
import pytest

from polyclinic.exchange import Contract, TensorSpec
from polyclinic.flare.convert import Reply
from polyclinic.flare.guard import Refused, UpdateGuard

CONTRACT = Contract(
    {
        "enc.wsi.w": TensorSpec((4,), "wsi"),
        "enc.cnv.w": TensorSpec((2, 3), "cnv", bound=10.0),
        "fuse.w": TensorSpec((2,)),
    }
)
GUARD = UpdateGuard(CONTRACT)
HELD = ("cnv",)
COUNTS = {"n": 1000.0, "n.cnv": 20.0}


def _reply(tensors: dict[str, Any] | None = None, **changes: Any) -> Reply:
    good = {"enc.cnv.w": np.ones((2, 3), np.float32), "fuse.w": np.zeros(2, np.float32)}
    fields: dict[str, Any] = {
        "kind": "WEIGHT_DIFF",
        "tensors": good | (tensors or {}),
        "scalars": {"n": 20.0, "n.cnv": 20.0, "t": 3.0},
        "metrics": {"train/loss": 0.25},
    }
    return Reply(**(fields | changes))


def _reason(reply: Reply) -> str:
    with pytest.raises(Refused) as caught:
        GUARD.check(reply, HELD, COUNTS, 3)
    return caught.value.reason


def test_a_complete_update_passes_as_it_is() -> None:
    update = GUARD.check(_reply(), HELD, COUNTS, 3)
    assert update.tensors["enc.cnv.w"].sum() == 6.0
    assert update.scalars == {"n": 20.0, "n.cnv": 20.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_f14_an_entry_that_is_not_finite_is_refused(bad: float) -> None:
    tensor = np.ones((2, 3), np.float32)
    tensor[1, 2] = bad
    assert _reason(_reply({"enc.cnv.w": tensor})) == "not_finite"


def test_f14_a_float16_overflow_is_refused() -> None:
    with np.errstate(over="ignore"):
        tensor = np.full((2, 3), 1e6).astype(np.float16)
    assert _reason(_reply({"enc.cnv.w": tensor})) == "dtype"
    assert _reason(_reply({"enc.cnv.w": tensor.astype(np.float32)})) == "not_finite"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.ones((3, 2), np.float32), "shape"),
        (np.ones((1,), np.float32), "shape"),
        (np.ones((2, 3), np.float64), "dtype"),
        ("ones", "type"),
        ([[1.0] * 3] * 2, "type"),
        ({"a": np.ones((2, 3), np.float32)}, "type"),
        (np.array([[object()] * 3] * 2), "dtype"),
        (np.ma.masked_array(np.ones((2, 3), np.float32)), "type"),
    ],
    ids=["shape", "broadcastable", "dtype", "string", "list", "dict", "object", "subclass"],
)
def test_f15_anything_but_the_exact_tensor_is_refused(value: object, reason: str) -> None:
    assert _reason(_reply({"enc.cnv.w": value})) == reason


def test_an_entry_above_the_bound_is_refused_and_one_at_the_bound_is_not() -> None:
    GUARD.check(_reply({"enc.cnv.w": np.full((2, 3), -10.0, np.float32)}), HELD, COUNTS, 3)
    tensor = np.full((2, 3), -10.5, np.float32)
    assert _reason(_reply({"enc.cnv.w": tensor})) == "magnitude"


def test_f16_a_site_sends_exactly_the_groups_of_its_modalities() -> None:
    wsi = {"enc.wsi.w": np.zeros(4, np.float32)}
    assert _reason(_reply(wsi)) == "names"
    GUARD.check(_reply(wsi), ("cnv", "wsi"), COUNTS, 3)


def test_an_incomplete_group_is_refused() -> None:
    reply = Reply("WEIGHT_DIFF", {"fuse.w": np.zeros(2, np.float32)}, {"n": 20.0, "t": 3.0})
    assert _reason(reply) == "names"


@pytest.mark.parametrize("name", ["enc.mri.w", "personal.head", "fuse.w2", ""])
def test_f17_an_unknown_name_is_refused(name: str) -> None:
    assert _reason(_reply({name: np.zeros(2, np.float32)})) == "names"


@pytest.mark.parametrize(
    "n",
    [1e12, 1001, -200, 0, float("nan"), float("inf"), 10**400, "many", True, None, [1]],
    ids=lambda n: str(n)[:8],
)
def test_f18_a_weight_outside_one_to_what_was_announced_is_refused(n: object) -> None:
    assert _reason(_reply(scalars={"n": n, "t": 3.0})) == "weight"


def test_f18_the_weight_of_a_modality_has_the_same_bounds() -> None:
    assert _reason(_reply(scalars={"n": 20.0, "n.cnv": 21.0, "t": 3.0})) == "weight"
    assert _reason(_reply(scalars={"n": 20.0, "n.wsi": 5.0, "t": 3.0})) == "scalars"


def test_f18_class_counts_are_no_more_than_the_patients_that_were_announced() -> None:
    spec = TensorSpec((2,), "cnv", bound=1e5)
    guard = UpdateGuard(Contract({**CONTRACT.specs, "store.count.cnv": spec}))
    for count, good in ((20.0, True), (21.0, False), (-1.0, False)):
        reply = _reply({"store.count.cnv": np.array([0.0, count], np.float32)})
        if good:
            guard.check(reply, HELD, COUNTS, 3)
            continue
        with pytest.raises(Refused) as caught:
            guard.check(reply, HELD, COUNTS, 3)
        assert caught.value.reason == "weight"


@pytest.mark.parametrize("kind", ["WEIGHTS", "METRICS", "COLLECTION", ""])
def test_f19_anything_but_differences_is_refused(kind: str) -> None:
    assert _reason(_reply(kind=kind)) == "kind"


def test_f08_an_answer_to_another_round_is_refused() -> None:
    assert _reason(_reply(scalars={"n": 20.0, "t": 2.0})) == "stale"
    assert _reason(_reply(scalars={"n": 20.0})) == "stale"


@pytest.mark.parametrize("metric", [float("nan"), "high", True, np.ones(3)])
def test_a_metric_that_is_no_finite_number_refuses_the_update(metric: object) -> None:
    assert _reason(_reply(metrics={"train/loss": metric})) == "metrics"


def test_a_metric_too_large_to_be_drawn_refuses_the_update() -> None:
    assert _reason(_reply(metrics={"train/loss": -1e308})) == "metrics"


def test_a_metric_under_an_odd_name_refuses_the_update() -> None:
    assert _reason(_reply(metrics={"patient 0017": 1.0})) == "metrics"
    assert _reason(_reply(metrics={"train/loss\n": 1.0})) == "metrics"
