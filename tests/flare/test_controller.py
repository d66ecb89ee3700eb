"""A run closes its rounds, keeps its quorum, and says who did not count and why."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.shareable import Shareable
from safetensors.numpy import load_file

from flare.ward import Answer, Ward, error, failing, of_kind, plain, plus_one, silence
from polyclinic.checkpoint import Checkpoints, entry_of
from polyclinic.errors import CheckpointError, StudyError
from polyclinic.exchange import State
from polyclinic.flare.convert import CENSUS, META, TRAIN, read_task
from polyclinic.ledger import Record
from polyclinic.study import load_study

SITES = ("site-1", "site-2", "site-3")


def _sites(**special: Answer) -> dict[str, Answer]:
    return {s: special.get(s.replace("-", ""), plus_one(s)) for s in SITES}


def _last(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "job-1" / "polyclinic" / "checkpoints" / "last.safetensors")


def _everywhere(folder: Path, value: float) -> bool:
    return all((a == value).all() for a in _last(folder).values())


def test_three_good_sites_give_the_exact_answer(tmp_path: Path) -> None:
    ward = Ward(tmp_path, _sites())
    records = ward.run(plain(3))
    assert [r["kind"] for r in records] == [
        *("start", "census", "round", "round", "round", "finalise", "evaluate", "end")
    ]
    assert [r["status"] for r in of_kind(records, "round")] == ["folded"] * 3
    assert of_kind(records, "end")[0]["status"] == "completed"
    assert _everywhere(tmp_path, 3.0)
    assert ward.panics == []


def test_a_site_is_sent_its_own_groups_only(tmp_path: Path) -> None:
    seen: dict[str, set[str]] = {}

    def watching(site: str) -> Answer:
        good = plus_one(site)

        def answer(task: str, data: Shareable) -> Shareable | None:
            if task == TRAIN:
                seen[site] = set(read_task(data)[0].tensors)
            return good(task, data)

        return answer

    Ward(tmp_path, {s: watching(s) for s in SITES}).run(plain(1))
    assert seen == {
        "site-1": {"enc.wsi.w", "fuse.w"},
        "site-2": {"enc.cnv.w", "enc.wsi.w", "fuse.w"},
        "site-3": {"enc.cnv.w", "fuse.w"},
    }


def test_a_site_that_fails_is_named_and_the_others_count(tmp_path: Path) -> None:
    records = Ward(tmp_path, _sites(site2=failing("site-2", {2}, error))).run(plain(3))
    rounds = of_kind(records, "round")
    assert rounds[1]["failed"] == {"site-2": "EXECUTION_EXCEPTION"}
    assert rounds[1]["heard"] == ["site-1", "site-3"]
    assert [r["status"] for r in rounds] == ["folded"] * 3
    assert _everywhere(tmp_path, 3.0)


def test_f14_a_poisoned_update_is_refused_and_the_round_goes_on(tmp_path: Path) -> None:
    def poison(answer: Shareable) -> Shareable:
        answer["DXO"]["data"]["fuse.w"][0, 0] = np.nan
        return answer

    records = Ward(tmp_path, _sites(site1=failing("site-1", {1, 2}, poison))).run(plain(2))
    assert [r["refused"] for r in of_kind(records, "round")] == [{"site-1": "not_finite"}] * 2
    # Only site-1 and site-2 hold wsi: site-2 alone is enough for it.
    assert _everywhere(tmp_path, 2.0)


def test_f13_a_name_in_the_payload_changes_nothing(tmp_path: Path) -> None:
    def spoof(answer: Shareable) -> Shareable:
        answer.set_header("client_name", "site-1")
        answer["DXO"]["meta"]["client_name"] = "site-1"
        return answer

    records = Ward(tmp_path, _sites(site3=failing("site-3", {1}, spoof))).run(plain(1))
    assert of_kind(records, "round")[0]["heard"] == list(SITES)
    assert _everywhere(tmp_path, 1.0)


def test_f08_a_site_that_misses_the_deadline_is_late_once_and_has_no_influence(
    tmp_path: Path,
) -> None:
    ward = Ward(tmp_path, {})
    late: list[threading.Thread] = []

    def slow(answer: Shareable) -> None:
        # As a slow hospital would: the answer to round 1 arrives after the round has closed.
        task = next(
            c for t in ward.communicator._tasks for c in t.client_tasks if c.client.name == "site-3"
        )
        answer["DXO"]["data"]["fuse.w"][:] = 50.0
        timer = threading.Timer(1.8, ward.submit, ("site-3", TRAIN, task.id, answer))
        late.append(timer)
        timer.start()

    ward.sites = _sites(site3=failing("site-3", {1}, slow))
    start = time.monotonic()
    records = ward.run(plain(3))
    for timer in late:
        timer.join()
    rounds = of_kind(records, "round")
    assert [r["late"] for r in rounds] == [["site-3"], [], []]
    assert len(late) == 1
    assert 1.5 <= rounds[0]["seconds"] < 2.5
    assert time.monotonic() - start < 10
    assert _everywhere(tmp_path, 3.0)


def test_a_site_whose_job_process_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    ward = Ward(tmp_path, {})

    def die(_: Shareable) -> None:
        ward.dead.add("site-3")
        gone = (EventType.CLIENT_DISCONNECTED, FLContextKey.DISCONNECTED_CLIENT_NAME, "site-3")
        threading.Timer(0.2, ward.tell, gone).start()

    ward.sites = _sites(site3=failing("site-3", {1}, die))
    records = ward.run(plain(1, round_deadline=30.0, fetch_deadline=30.0))
    first = of_kind(records, "round")[0]
    assert first["lost"] == ["site-3"]
    assert first["seconds"] < 2.0
    assert _everywhere(tmp_path, 1.0)


def test_a_site_that_does_not_fetch_its_task_is_absent(tmp_path: Path) -> None:
    ward = Ward(tmp_path, _sites())
    ward.sites["site-3"] = lambda task, data: (
        time.sleep(4) if task == TRAIN else (plus_one("site-3")(task, data))
    )
    records = ward.run(plain(2, round_deadline=1.0, fetch_deadline=0.5, stages=[TRAIN]))
    assert of_kind(records, "round")[0]["late"] == ["site-3"]
    assert of_kind(records, "round")[1]["absent"] == ["site-3"]
    assert of_kind(records, "round")[1]["seconds"] < 0.9


def test_f21_two_rounds_without_a_quorum_end_the_run_and_leave_the_model(tmp_path: Path) -> None:
    bad = {f"site{i}": failing(f"site-{i}", {2, 3, 4}, error) for i in (1, 2)}
    ward = Ward(tmp_path, _sites(**bad))
    records = ward.run(plain(9))
    rounds = of_kind(records, "round")
    assert [r["status"] for r in rounds] == ["folded", "below_quorum", "below_quorum"]
    assert rounds[1]["checkpoint"] == rounds[2]["checkpoint"] == rounds[0]["checkpoint"]
    assert of_kind(records, "end")[0]["status"] == "failed_quorum"
    assert len(ward.panics) == 1
    assert _everywhere(tmp_path, 1.0)


def test_one_round_without_a_quorum_is_borne(tmp_path: Path) -> None:
    bad = {f"site{i}": failing(f"site-{i}", {2}, error) for i in (1, 2)}
    records = Ward(tmp_path, _sites(**bad)).run(plain(3))
    assert [r["status"] for r in of_kind(records, "round")] == ["folded", "below_quorum", "folded"]
    assert _everywhere(tmp_path, 2.0)


def test_too_few_sites_in_the_census_end_the_run_at_once(tmp_path: Path) -> None:
    def other_study(site: str) -> Answer:
        good = plus_one(site)

        def answer(task: str, data: Shareable) -> Shareable | None:
            answer_ = good(task, data)
            if answer_ is not None and task == "census":
                answer_["DXO"]["meta"][META]["fingerprint"] = "0" * 64
            return answer_

        return answer

    special = {"site1": other_study("site-1"), "site2": other_study("site-2")}
    records = Ward(tmp_path, _sites(**special)).run(plain(3))
    assert of_kind(records, "census")[0]["refused"] == {"site-1": "study", "site-2": "study"}
    assert of_kind(records, "round") == []
    assert of_kind(records, "end")[0]["status"] == "failed_quorum"


# FLARE's task monitor died once of a KeyError here, near the job's end; the cause is not known.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_abort_is_in_the_ledger(tmp_path: Path) -> None:
    ward = Ward(tmp_path, {s: failing(s, {2}, silence) for s in SITES})
    threading.Timer(0.6, ward.abort.trigger, (True,)).start()
    records = ward.run(plain(5, round_deadline=60.0))
    assert of_kind(records, "end")[0]["status"] == "aborted"


def test_f22_a_full_disk_ends_the_run_with_a_reason_and_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def save_until_full(self: Checkpoints, state: State, step: str = "") -> Record:
        if state.round == 2:
            raise CheckpointError(expected="room", got="No space left on device", remedy="free it")
        return save(self, state, step)

    monkeypatch.setattr(Checkpoints, "save", save_until_full)
    ward = Ward(tmp_path, _sites())
    records = ward.run(plain(4))
    assert of_kind(records, "end")[0]["status"] == "failed_checkpoint"
    assert "No space left" in ward.panics[0]
    home = tmp_path / "job-1" / "polyclinic"
    contract = plain(1).server.contract(load_study(tmp_path / "job-1" / "app_server" / "config"))
    good = Checkpoints(home / "checkpoints", contract).load(entry_of(records, 1), 1)
    assert (good.tensors["fuse.w"] == 1.0).all()


def test_an_exception_that_nobody_foresaw_ends_the_run_with_a_line_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> State:
        raise ZeroDivisionError("17 patients")

    rounds = plain(3)
    monkeypatch.setattr(type(rounds.server), "finish", broken)
    ward = Ward(tmp_path, _sites())
    end = of_kind(ward.run(rounds), "end")[0]
    assert end["status"] == "failed_unexpected"
    assert "ZeroDivisionError" in end["reason"]
    assert "17" not in end["reason"]
    assert ward.panics == [end["reason"]]


def test_an_exception_before_the_book_is_open_is_told_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> State:
        raise ZeroDivisionError

    rounds = plain(3)
    monkeypatch.setattr(type(rounds.server), "initial", broken)
    ward = Ward(tmp_path, _sites())
    assert ward.run(rounds) == []
    assert "ZeroDivisionError" in ward.panics[0]


def test_every_task_after_the_census_says_how_many_sites_answered_it(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []

    def listening(task: str, data: Shareable) -> Shareable | None:
        if task != CENSUS:
            told.append((task, read_task(data)[1]["sites"]))
        return plus_one("site-1")(task, data)

    def silent(_: str, __: Shareable) -> None:
        return None

    Ward(tmp_path, _sites(site1=listening, site3=silent)).run(plain(1))
    assert told == [("train", 2), ("finalise", 2), ("evaluate", 2)]


@pytest.mark.parametrize(
    "args",
    [
        {"most_share": 0.0},
        {"most_share": 1.5},
        {"most_patients": 0},
        {"min_sites": 1},
        {"round_deadline": 0},
        {"start_round": 2},
        {"stages": ["dance"]},
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused_when_the_job_is_built(args: dict) -> None:
    with pytest.raises(StudyError):
        plain(3, **args)


def test_f21_when_too_few_sites_are_left_the_run_ends_by_its_own_rule(tmp_path: Path) -> None:
    ward = Ward(tmp_path, {})

    def dying(site: str) -> Answer:
        def die(_: Shareable) -> None:
            ward.dead.add(site)
            gone = (EventType.CLIENT_DISCONNECTED, FLContextKey.DISCONNECTED_CLIENT_NAME, site)
            threading.Timer(0.2, ward.tell, gone).start()

        return failing(site, {2}, die)

    ward.sites = _sites(site1=dying("site-1"), site2=dying("site-2"))
    records = ward.run(plain(9, round_deadline=30.0, fetch_deadline=30.0))
    rounds = of_kind(records, "round")
    assert [r["status"] for r in rounds] == ["folded", "below_quorum", "below_quorum"]
    assert rounds[2]["lost"] == ["site-1", "site-2"]
    assert max(r["seconds"] for r in rounds) < 5
    assert of_kind(records, "end")[0]["status"] == "failed_quorum"
