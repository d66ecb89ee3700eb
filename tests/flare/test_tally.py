"""What a site answers, however odd, is that site's fault and ends nobody else's run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.shareable import Shareable

from flare.counting import HELD
from flare.ward import FINGERPRINT, Answer, Ward, failing, of_kind, plain, plus_one
from polyclinic.errors import CheckpointError
from polyclinic.exchange import Update
from polyclinic.flare.convert import CENSUS, ERROR, META, reply
from polyclinic.flare.tally import gather

EVIL = "site-1"


def _run(folder: Path, answer: Answer) -> list[dict[str, Any]]:
    ward = Ward(folder, {**{s: plus_one(s) for s in HELD}, EVIL: answer})
    records = ward.run(plain(1))
    assert of_kind(records, "end")[0]["status"] == "completed"
    assert of_kind(records, "round")[0]["status"] == "folded"
    assert ward.panics == []
    return records


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        ({"fingerprint": np.array([1, 2])}, "study"),
        ({"n": 10**400}, "scalars"),
        ({"modalities": [[1]]}, "modalities"),
        ({"version": np.zeros(5), "quarantined.x": np.zeros(2)}, "scalars"),
    ],
    ids=["array", "integer", "list", "arrays"],
)
def test_an_odd_census_refuses_its_site_and_the_run_goes_on(
    tmp_path: Path, fact: dict[str, Any], reason: str
) -> None:
    def answer(task: str, data: Shareable) -> Shareable | None:
        facts = {"modalities": HELD[EVIL], "fingerprint": FINGERPRINT, "n": 20.0, **fact}
        return reply(Update({}, facts)) if task == CENSUS else plus_one(EVIL)(task, data)

    records = _run(tmp_path, answer)
    assert of_kind(records, "census")[0]["refused"] == {EVIL: reason}


def _code(answer: Shareable) -> None:
    answer.set_return_code(np.array([1, 2]))


def _kind(answer: Shareable) -> None:
    answer["DXO"]["kind"] = np.array([1, 2])


def _no_dxo(answer: Shareable) -> None:
    answer["DXO"] = None


def _weight(answer: Shareable) -> None:
    answer["DXO"]["meta"][META]["n"] = 10**400


def _metric(answer: Shareable) -> None:
    answer["DXO"]["meta"]["initial_metrics"] = {"train/loss": 10**400}


def _names(answer: Shareable) -> None:
    answer["DXO"]["data"] = {1: np.zeros(2, np.float32), "a": 3}


def _round(answer: Shareable) -> None:
    answer["DXO"]["meta"][META]["t"] = np.array([1.0, 2.0])


def _headers(answer: Shareable) -> None:
    answer["__headers__"] = "x"


@pytest.mark.parametrize(
    "change", [_code, _kind, _no_dxo, _weight, _metric, _names, _round, _headers]
)
def test_an_odd_update_refuses_its_site_and_the_round_goes_on(
    tmp_path: Path, change: Callable[[Shareable], None]
) -> None:
    def how(answer: Shareable) -> Shareable:
        change(answer)
        return answer

    records = _run(tmp_path, failing(EVIL, {1}, how))
    line = of_kind(records, "round")[0]
    assert EVIL in line["refused"]
    assert line["heard"] == ["site-2", "site-3"]


def test_an_odd_word_of_an_error_is_not_repeated(tmp_path: Path) -> None:
    def how(answer: Shareable) -> Shareable:
        answer.clear()
        answer.set_return_code("EXECUTION_EXCEPTION")
        answer.set_header(ERROR, {"code": np.array([1, 2])})
        return answer

    records = _run(tmp_path, failing(EVIL, {1}, how))
    assert of_kind(records, "round")[0]["failed"] == {EVIL: "EXECUTION_EXCEPTION"}


class _Gathering:
    """Answers that are there already."""

    outcome = None

    def answers(self, fl_ctx: object, abort: object) -> list[tuple[str, Shareable]]:
        return [("site-1", Shareable()), ("site-2", Shareable())]


def test_whatever_reading_an_answer_raises_refuses_its_site_alone() -> None:
    heard = []

    def take(site: str, answer: Shareable) -> None:
        if site == EVIL:
            raise RecursionError
        heard.append(site)

    tally = gather(_Gathering(), take, None, None)  # type: ignore[arg-type]
    assert tally.refused == {EVIL: "malformed"}
    assert heard == ["site-2"]


def test_what_is_wrong_with_the_server_is_not_blamed_on_a_site() -> None:
    def take(site: str, answer: Shareable) -> None:
        raise CheckpointError(expected="room", got="none", remedy="free it")

    with pytest.raises(CheckpointError):
        gather(_Gathering(), take, None, None)  # type: ignore[arg-type]
