"""The site's socket: four tasks, every fault a reply, and the process behind it replaceable."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.private.fed.server.server_runner import ServerRunner

from flare.kit import JOB, PATIENTS, Kit, ask, executor, request
from polyclinic.exchange import State
from polyclinic.flare import personal
from polyclinic.flare.convert import ERROR, Reply, read_reply, task_data
from polyclinic.flare.executor import MODALITIES, SiteExecutor
from polyclinic.flare.site import CONTRACT

Make = Callable[..., SiteExecutor]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Executors whose children are ended with the test."""
    made: list[SiteExecutor] = []

    def build(**args: Any) -> SiteExecutor:
        made.append(executor(monkeypatch, **args))
        return made[-1]

    yield build
    for site in made:
        if site.child is not None:
            site.child.end()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SiteExecutor, Kit]]:
    """A healthy site whose child is shared by the tests that need nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        site = executor(patch, step=2.0)
        yield site, Kit(tmp_path_factory.mktemp("plain"))
    if site.child is not None:
        site.child.end()


Plain = tuple[SiteExecutor, Kit]


def told(reply: Shareable) -> dict[str, str]:
    """The error's words; fails when a payload travels with it."""
    assert set(reply) == {"__headers__"}
    return dict(reply.get_header(ERROR))


def answer(reply: Shareable) -> Reply:
    assert reply.get_return_code() == ReturnCode.OK
    return read_reply(reply)


def test_census_says_counts_modalities_and_study_and_sends_no_tensor(plain: Plain) -> None:
    reply = answer(ask(*plain, "census", Shareable()))
    assert reply.tensors == {}
    train = PATIENTS * 2 // 3
    assert (reply.scalars["n"], reply.scalars["n.cnv"]) == (train, train)
    assert reply.scalars["modalities"] == ["cnv"]
    assert len(reply.scalars["fingerprint"]) == 64


def test_a_site_with_too_few_training_patients_takes_part_in_nothing(
    tmp_path: Path, make: Make
) -> None:
    enough, kit = (
        Kit(tmp_path / "a", {"minimum_cell": 16}),
        Kit(tmp_path / "b", {"minimum_cell": 17}),
    )
    assert answer(ask(make(), enough, "census")).scalars["n"] == 16
    site = make()
    for task in ("census", "train", "finalise", "evaluate"):
        words = told(ask(site, kit, task))
        assert (words["code"], words["owner"]) == ("site", "data manager")
        assert not any(c.isdigit() for c in words["message"])


def test_training_sends_differences_and_keeps_personal_state_between_rounds(plain: Plain) -> None:
    site, kit = plain
    first = answer(ask(site, kit, "train", request(0)))
    second = answer(ask(site, kit, "train", request(1)))
    assert set(first.tensors) == {"enc.cnv.weight", "fuse.weight"}
    np.testing.assert_array_equal(first.tensors["fuse.weight"], np.full(3, 2.0))
    np.testing.assert_array_equal(second.tensors["fuse.weight"], np.full(3, 3.0))
    assert (first.scalars["t"], second.scalars["t"]) == (1, 2)
    assert (kit.storage / "personal" / JOB / "round_2.safetensors").exists()


def test_a_resumed_job_finds_the_personal_state_of_the_run_it_continues(
    tmp_path: Path, make: Make
) -> None:
    kit = Kit(tmp_path)
    first = make(run="first")
    ask(first, kit, "train", request(0))
    first.handle_event(EventType.END_RUN, kit.context())
    again = answer(ask(make(run="first"), kit, "train", request(1)))
    other = answer(ask(make(run="other"), kit, "train", request(1)))
    assert again.tensors["fuse.weight"][0] == 2  # step 1 + one round before
    assert other.tensors["fuse.weight"][0] == 1


def test_finalise_keeps_the_head_and_lets_no_tensor_out(plain: Plain) -> None:
    site, kit = plain
    assert answer(ask(site, kit, "finalise", request(3))).tensors == {}
    assert (kit.storage / "personal" / JOB / "round_3.safetensors").exists()


def test_evaluate_scores_the_splits_it_has(plain: Plain) -> None:
    reply = answer(ask(*plain, "evaluate", request(1)))
    assert reply.tensors == {}
    assert reply.metrics["test/auroc"] == 1.0
    assert reply.metrics["test/brier"] == pytest.approx(0.01)  # (1 - 0.9)²
    assert reply.metrics["test/n"] == PATIENTS // 3
    assert not any(name.startswith("validation/") for name in reply.metrics)


def test_scores_of_a_class_below_the_smallest_cell_are_left_out(tmp_path: Path, make: Make) -> None:
    # 8 test patients, 4 of each class.
    small = ask(make(), Kit(tmp_path / "a", {"minimum_cell": 5}), "evaluate", request(1))
    large = ask(make(), Kit(tmp_path / "b", {"minimum_cell": 4}), "evaluate", request(1))
    assert set(answer(small).metrics) == {"seconds/evaluate"}
    assert "test/auroc" in answer(large).metrics


def test_a_killed_child_costs_one_reply_and_the_next_task_gets_a_new_one(
    tmp_path: Path, make: Make
) -> None:
    kit, site = Kit(tmp_path), make(fault="once", marker=str(tmp_path / "died"))
    lost = ask(site, kit, "train")
    assert lost.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert told(lost)["code"] == "worker_lost"
    assert "signal 9" in told(lost)["message"]
    assert answer(ask(site, kit, "train")).tensors["fuse.weight"][0] == 1


def test_a_child_killed_between_tasks_is_replaced_unnoticed(tmp_path: Path, make: Make) -> None:
    kit, site = Kit(tmp_path), make()
    ask(site, kit, "census")
    assert site.child is not None
    assert site.child.process is not None
    site.child.process.kill()
    site.child.process.wait()
    assert answer(ask(site, kit, "train")).tensors["fuse.weight"][0] == 1


def test_a_hung_child_is_killed_at_the_sites_deadline(tmp_path: Path, make: Make) -> None:
    kit = Kit(tmp_path, {"max_train_seconds": 4})
    site = make(fault="hang")
    started = time.monotonic()
    reply = ask(site, kit, "train")
    assert told(reply)["code"] == "worker_timeout"
    assert time.monotonic() - started < 4 + 2


def test_a_hung_child_is_killed_when_the_server_stops_waiting(tmp_path: Path, make: Make) -> None:
    kit, site = Kit(tmp_path), make(fault="hang")
    ask(site, kit, "census")
    assert site.child is not None
    assert site.child.process is not None
    hung = site.child.process.pid
    started = time.monotonic()
    reply = ask(site, kit, "train", request(0, deadline=1.0))
    assert told(reply)["code"] == "worker_timeout"
    assert time.monotonic() - started < 1 + 2
    assert not psutil.pid_exists(hung)
    assert site.child.alive  # the next one is warming up


def test_an_abort_kills_a_deaf_child_within_seconds(tmp_path: Path, make: Make) -> None:
    kit, site, abort = Kit(tmp_path), make(fault="hang"), Signal()
    ask(site, kit, "census")
    assert site.child is not None
    assert site.child.process is not None
    pid = site.child.process.pid
    abort.trigger(True)
    started = time.monotonic()
    reply = site.execute("train", request(), kit.context(), abort)
    assert told(reply)["code"] == "aborted"
    assert time.monotonic() - started < 2
    assert not psutil.pid_exists(pid)


def test_the_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = os.fork()
    if parent == 0:  # stands for FLARE's job process
        os.closerange(3, 64)
        from flare.kit import CLIENT, COMMAND, STUDY
        from polyclinic.flare.child import TrainingProcess
        from polyclinic.settings import load_settings
        from polyclinic.study import parse_study

        kit = Kit(tmp_path)
        settings = load_settings(kit.root / "local" / "polyclinic.yaml")
        spec = {"path": CLIENT, "args": {"fault": "hang"}}
        training = TrainingProcess(settings, parse_study(STUDY), spec, COMMAND)
        training.start()
        assert training.process is not None
        (tmp_path / "pid").write_text(str(training.process.pid))
        time.sleep(600)
    path = tmp_path / "pid"
    wait_for(lambda: path.exists() and path.read_text() != "")
    child = psutil.Process(int(path.read_text()))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    child.wait(timeout=10)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_child_offers_itself_first_when_memory_runs_out(tmp_path: Path, make: Make) -> None:
    kit, site = Kit(tmp_path), make()
    ask(site, kit, "census")
    assert site.child is not None
    assert site.child.process is not None
    score = Path(f"/proc/{site.child.process.pid}/oom_score_adj")
    if not score.exists():
        pytest.skip("this system has no oom_score_adj")
    assert score.read_text().strip() == "1000"


def test_start_run_warms_the_child_and_announces_modalities(tmp_path: Path, make: Make) -> None:
    kit, site = Kit(tmp_path), make()
    fl_ctx = kit.context()
    started = time.monotonic()
    site.handle_event(EventType.START_RUN, fl_ctx)
    assert time.monotonic() - started < 1  # the run does not wait for torch
    assert site.child is not None
    assert site.child.alive
    assert fl_ctx.get_prop(MODALITIES) == ["cnv"]
    site.handle_event(EventType.END_RUN, fl_ctx)
    assert not site.child.alive


def test_an_exception_is_told_by_class_and_incident_and_its_text_stays(
    tmp_path: Path, make: Make
) -> None:
    kit = Kit(tmp_path)
    words = told(ask(make(fault="words", words=["Jane Roe"]), kit, "train"))
    assert words["message"] == "ValueError; its text stayed at the site."
    incident = kit.storage / "incidents" / f"{words['incident']}.txt"
    assert "Jane Roe" in incident.read_text()
    assert incident.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("fault", ["leak", "nan"])
def test_an_update_that_breaks_the_contract_does_not_leave(
    tmp_path: Path, make: Make, fault: str
) -> None:
    words = told(ask(make(fault=fault), Kit(tmp_path), "train"))
    assert (words["code"], words["owner"]) == ("contract", "researcher")


BAD_STATES: dict[str, dict[str, Any]] = {
    "unknown name": {"enc.cnv.extra": np.zeros(2, np.float32)},
    "modality not held": {"enc.rna.weight": np.zeros((2, 3), np.float32)},
    "personal": {"personal.rounds": np.zeros(1, np.float32)},
    "shape": {"fuse.weight": np.zeros(4, np.float32)},
    "dtype": {"fuse.weight": np.zeros(3, np.float64)},
    "nan": {"fuse.weight": np.full(3, np.nan, np.float32)},
    "magnitude": {"fuse.weight": np.full(3, 1e6, np.float32)},
}


def test_a_state_that_breaks_the_contract_is_not_trained_on(plain: Plain) -> None:
    good = {
        "enc.cnv.weight": np.zeros((2, 3), np.float32),
        "fuse.weight": np.zeros(3, np.float32),
    }
    site, kit = plain
    before = list((kit.storage / "personal").rglob("*"))
    for what, change in BAD_STATES.items():
        reply = ask(site, kit, "train", task_data(State(good | change, 0), {}))
        assert reply.get_return_code() == ReturnCode.BAD_TASK_DATA, what
        assert told(reply)["code"] == "contract", what
    assert list((kit.storage / "personal").rglob("*")) == before


def test_a_job_of_too_few_sites_is_refused(tmp_path: Path, make: Make) -> None:
    site = make()
    alone, silent = Kit(tmp_path / "a", sites=1), Kit(tmp_path / "b", sites=0)
    for kit in (alone, silent):
        words = told(ask(site, kit, "train"))
        assert words["code"] == "site"
        assert "minimum_sites" in words["message"]


def test_a_site_counts_those_that_answered_the_census_too(plain: Plain) -> None:
    site, kit = plain
    assert ask(site, kit, "train", request(0, sites=2)).get_return_code() == ReturnCode.OK
    for sites in (1, True, "3", None):
        words = told(ask(site, kit, "train", request(0, sites=sites)))
        assert "minimum_sites" in words["message"], sites


def test_a_job_cannot_take_over_the_personal_state_of_a_run_of_another_study_or_algorithm(
    tmp_path: Path, make: Make
) -> None:
    kit, victim = Kit(tmp_path), make(run="victim")
    for t in range(2):
        ask(victim, kit, "train", request(t))
    victim.handle_event(EventType.END_RUN, kit.context())
    folder = kit.storage / "personal" / "victim"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    study = next(kit.root.rglob("study.json"))
    text = study.read_text()
    study.write_text(json.dumps(json.loads(text) | {"seed": 9}))
    thief = make(run="victim")
    for task in ("train", "finalise", "evaluate"):
        words = told(ask(thief, kit, task, request(0, run="victim")))
        assert (words["code"], words["owner"]) == ("site", "researcher"), task
    thief.handle_event(EventType.END_RUN, kit.context())
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    study.write_text(text)
    again = answer(ask(make(run="victim"), kit, "train", request(2, run="victim")))
    assert again.tensors["fuse.weight"][0] == 3  # step 1 + two rounds before


def test_the_server_and_the_site_must_work_on_the_same_run(plain: Plain) -> None:
    site, kit = plain
    assert ask(site, kit, "train", request(0, run=JOB)).get_return_code() == ReturnCode.OK
    words = told(ask(site, kit, "train", request(0, run="another")))
    assert "one run for both halves" in words["message"]


def test_two_jobs_on_one_run_are_told_so_and_the_first_goes_on(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal, "PATIENCE_SECONDS", 0.2)
    kit, first, second = Kit(tmp_path), make(run="one"), make(run="one")
    assert answer(ask(first, kit, "train", request(0))).tensors["fuse.weight"][0] == 1
    assert "one job at a time" in told(ask(second, kit, "train", request(0)))["message"]
    assert answer(ask(first, kit, "train", request(1))).tensors["fuse.weight"][0] == 2
    first.handle_event(EventType.END_RUN, kit.context())
    assert answer(ask(second, kit, "train", request(2))).tensors["fuse.weight"][0] == 3


def test_the_contract_of_the_job_reaches_the_filter_with_the_update(plain: Plain) -> None:
    site, kit = plain
    fl_ctx = kit.context()
    site.execute("train", request(0), fl_ctx, Signal())
    contract = fl_ctx.get_prop(CONTRACT)
    assert {n: s.shape for n, s in contract.specs.items()} == {
        "enc.cnv.weight": (2, 3),
        "fuse.weight": (3,),
    }


def test_settings_of_another_site_are_refused(tmp_path: Path, make: Make) -> None:
    words = told(ask(make(), Kit(tmp_path, {"site": "other"}), "census"))
    assert words["owner"] == "site IT"
    assert "polyclinic.yaml" in words["message"]


def test_a_site_without_the_cohort_says_so_at_every_task(tmp_path: Path, make: Make) -> None:
    site, kit = make(), Kit(tmp_path, {"cohorts": {}})
    site.handle_event(EventType.START_RUN, kit.context())
    for _ in range(2):
        assert "cohort named 'demo'" in told(ask(site, kit, "census"))["message"]


def test_a_cohort_that_was_mended_is_read_at_the_next_task(tmp_path: Path, make: Make) -> None:
    site, kit = make(), Kit(tmp_path)
    table = kit.root / "data" / "cnv.csv"
    content = table.read_text()
    table.unlink()
    assert told(ask(site, kit, "census"))["owner"] == "data manager"
    table.write_text(content)
    assert answer(ask(site, kit, "census")).scalars["n"] == 16


def test_what_is_no_client_half_is_told_to_the_researcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = executor(monkeypatch)
    site.client = {"path": "polyclinic.algorithms.arithmetic.State", "args": {}}
    words = told(ask(site, Kit(tmp_path), "census"))
    assert (words["code"], words["owner"]) == ("study", "researcher")
    assert site.child is not None
    site.child.end()


def test_no_reply_carries_a_code_that_aborts_the_job(tmp_path: Path, make: Make) -> None:
    kit, site = Kit(tmp_path), make(fault="words", words=["x"])
    replies = [
        ask(site, kit, "train"),
        ask(site, kit, "train", Shareable()),
        ask(site, kit, "no such task"),
        ask(site, Kit(tmp_path / "alone", sites=1), "train"),
    ]
    codes = {reply.get_return_code() for reply in replies}
    assert codes <= {ReturnCode.EXECUTION_EXCEPTION, ReturnCode.BAD_TASK_DATA}
    assert not codes & set(ServerRunner.ABORT_RETURN_CODES)
