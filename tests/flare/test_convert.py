"""What is packed comes out as it was, and what is odd is refused."""

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from flare.counting import STUDY
from polyclinic.errors import ContractViolation
from polyclinic.exchange import State, Update
from polyclinic.flare.census import read_census
from polyclinic.flare.convert import (
    META,
    is_number,
    read_reply,
    read_task,
    reply,
    task_data,
)
from polyclinic.flare.guard import Refused
from polyclinic.study import parse_study

STUDY_ = parse_study(STUDY)
FACTS = {
    "modalities": ["wsi", "cnv"],
    "fingerprint": STUDY_.fingerprint(),
    "version": "0.1.0",
    "n": 40.0,
    "n.wsi": 30.0,
    "quarantined.unreadable": 12.0,
}


def test_a_task_comes_out_as_it_was_packed() -> None:
    state = State({"fuse.w": np.arange(3, dtype=np.float32)}, 7)
    back, scalars = read_task(task_data(state, {"t": 8, "run": "r"}))
    assert back.round == 7
    assert back.tensors["fuse.w"].tolist() == [0.0, 1.0, 2.0]
    assert (scalars["t"], scalars["run"]) == (8, "r")


def test_a_task_without_tensors_is_a_task() -> None:
    back, _ = read_task(task_data(State({}, 0), {"stage": "census"}))
    assert back == State({}, 0)


def test_a_reply_comes_out_as_it_was_packed() -> None:
    update = Update({"fuse.w": np.ones(2, np.float32)}, {"n": 20.0})
    back = read_reply(reply(update, {"train/loss": 0.5}))
    assert back.kind == "WEIGHT_DIFF"
    assert back.tensors["fuse.w"].tolist() == [1.0, 1.0]
    assert (back.scalars, back.metrics) == ({"n": 20.0}, {"train/loss": 0.5})


def test_a_reply_without_tensors_carries_metrics_only() -> None:
    back = read_reply(reply(Update({}, {"t": 3.0}), {"test/auroc": 0.75}))
    assert (back.kind, back.tensors) == ("METRICS", {})
    assert (back.scalars, back.metrics) == ({"t": 3.0}, {"test/auroc": 0.75})


@pytest.mark.parametrize(
    "odd",
    [Shareable(), make_reply(ReturnCode.EXECUTION_EXCEPTION), Shareable({"DXO": "text"})],
    ids=["empty", "error", "text"],
)
def test_what_is_no_answer_is_refused(odd: Shareable) -> None:
    with pytest.raises(ContractViolation):
        read_reply(odd)


def test_odd_meta_counts_as_nothing_said() -> None:
    dxo = DXO(DataKind.WEIGHT_DIFF, data={"w": np.zeros(1)}, meta={META: ["n", 5]})
    assert read_reply(dxo.to_shareable()).scalars == {}


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(1), "1", None, float("nan"), float("inf"), 1j, 10**400],
    ids=lambda value: str(value)[:8],
)
def test_only_finite_real_numbers_are_numbers(value: object) -> None:
    assert not is_number(value)
    assert is_number(np.float32(1.5))
    assert is_number(3)


def test_a_census_is_read_with_its_counts_and_its_quarantine() -> None:
    found = read_census(read_reply(reply(Update({}, FACTS))), STUDY_)
    assert found.modalities == ("cnv", "wsi")
    assert found.counts == {"n": 40.0, "n.wsi": 30.0}
    assert found.quarantined == {"unreadable": 12}
    assert found.version == "0.1.0"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fingerprint": "0" * 64}, "study"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["mri"]}, "modalities"),
        ({"modalities": "wsi"}, "modalities"),
        ({"n": float("nan")}, "scalars"),
        ({"n": -1.0}, "weight"),
        ({"n": 29.0}, "weight"),  # fewer than the 30 with slides
        ({"n": 1e5 + 1}, "weight"),
        ({"n": 10**400}, "scalars"),
        ({"n.wsi": None}, "scalars"),
        ({"fingerprint": np.array([1, 2])}, "study"),
        ({"modalities": [["wsi"]]}, "modalities"),
        ({"modalities": ["wsi", {}]}, "modalities"),
        ({"quarantined.x\n": 12.0}, "scalars"),
        ({"quarantined.x": 1e300}, "scalars"),
        ({"quarantined.unreadable": "many"}, "scalars"),
        ({"quarantined.patient 17": 1.0}, "scalars"),
        ({f"quarantined.x{i}": 1.0 for i in range(129)}, "scalars"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_census_that_does_not_fit_the_study_is_refused(change: dict, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        read_census(read_reply(reply(Update({}, {**FACTS, **change}))), STUDY_)
    assert caught.value.reason == reason


def test_a_census_without_a_number_of_patients_is_refused() -> None:
    said = {name: fact for name, fact in FACTS.items() if name != "n"}
    with pytest.raises(Refused) as caught:
        read_census(read_reply(reply(Update({}, said))), STUDY_)
    assert caught.value.reason == "scalars"


def test_a_version_that_is_no_plain_word_counts_as_nothing_said() -> None:
    for odd in (np.zeros(5), "0.1\n", 3, None):
        assert (
            read_census(read_reply(reply(Update({}, {**FACTS, "version": odd}))), STUDY_).version
            == ""
        )


def test_a_census_that_carries_tensors_is_refused() -> None:
    update = Update({"fuse.w": np.ones(2, np.float32)}, dict.fromkeys(("n",), 1.0))
    with pytest.raises(Refused) as caught:
        read_census(read_reply(reply(update)), STUDY_)
    assert caught.value.reason == "kind"
