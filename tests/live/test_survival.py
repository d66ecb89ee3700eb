"""Killed job processes, restarted sites and a killed server, on the demo job over mutual TLS."""

import time
from pathlib import Path

import pytest
from federation import REPO, SERVER, Federation, wait_for
from runs import assert_equals_one_process, copy_job, ledger, rounds, run_folder

from polyclinic.flare.resume import make_resume_job

JOB = REPO / "jobs" / "fedmm_demo"
LAST = 30  # rounds: enough for a fault to find the job at work
DEADLINE_S = 40
AWAY_DEADLINE_S = 25


@pytest.fixture
def federation(battered: Federation) -> Federation:
    """A federation that may be killed, whole at the start of a test."""
    return battered.mended()


def _begin(federation: Federation, folder: Path, deadline: float = DEADLINE_S) -> tuple[str, Path]:
    """A job that has closed its first round: its id and its folder."""
    job = copy_job(JOB, folder, rounds=LAST, round_deadline=deadline)
    run = federation.submit(job)
    wait_for(lambda: rounds(federation, run), 90, "the first round")
    return run, job


def test_f01_a_job_goes_on_without_a_site_whose_job_process_is_killed(
    federation: Federation, tmp_path: Path
) -> None:
    run, _ = _begin(federation, tmp_path)
    federation.kill("site-3", "job")
    assert federation.wait(run, 150) == "FINISHED:COMPLETED"
    closed = rounds(federation, run)
    without = [r for r in closed if r["lost"] == ["site-3"]]
    assert without
    assert without[-1]["heard"] == ["site-1", "site-2"]
    assert max(r["seconds"] for r in closed) < DEADLINE_S + 5
    assert ledger(federation, run)[-1]["status"] == "completed"


def test_f02_a_site_that_restarts_in_seconds_hangs_no_round_and_is_back_in_the_next_job(
    federation: Federation, tmp_path: Path
) -> None:
    run, _ = _begin(federation, tmp_path / "first")
    federation.kill("site-2")
    time.sleep(4)
    federation.restart("site-2")
    assert federation.wait(run, 150).startswith("FINISHED")
    assert max(r["seconds"] for r in rounds(federation, run)) < DEADLINE_S + 5
    assert ledger(federation, run)[-1]["status"] == "completed"
    federation.ready()
    again = federation.submit(copy_job(JOB, tmp_path / "second", rounds=1))
    assert federation.wait(again, 120) == "FINISHED:COMPLETED"
    assert "site-2" in rounds(federation, again)[0]["heard"]


def test_f03_a_site_that_is_killed_and_stays_away_hangs_no_round(
    federation: Federation, tmp_path: Path
) -> None:
    run, _ = _begin(federation, tmp_path, AWAY_DEADLINE_S)
    federation.kill("site-3")
    assert federation.wait(run, 150) == "FINISHED:COMPLETED"
    assert not federation.pids("site-3")
    closed = rounds(federation, run)
    assert [r["round"] for r in closed] == list(range(1, LAST + 1))
    assert max(r["seconds"] for r in closed) < AWAY_DEADLINE_S + 5
    without = [r for r in closed if "site-3" not in r["heard"]]
    assert all("site-3" in r["late"] + r["absent"] + r["lost"] for r in without)
    assert without[-1] is closed[-1]
    assert all(r["status"] == "folded" for r in closed)


def test_f05_a_killed_server_costs_at_most_one_round(
    federation: Federation, tmp_path: Path
) -> None:
    run, job = _begin(federation, tmp_path)
    wait_for(lambda: len(rounds(federation, run)) >= 3, 90, "three rounds")
    federation.kill(SERVER)
    done = len(rounds(federation, run))
    federation.mended()
    assert federation.status(run) == "FINISHED:ABNORMAL"
    folder = run_folder(federation, run)
    resumed = federation.submit(make_resume_job(job, folder, tmp_path / "again" / job.name))
    assert federation.wait(resumed, 150) == "FINISHED:COMPLETED"
    assert [r["round"] for r in rounds(federation, run)] == list(range(1, LAST + 1))
    assert done >= 3
    # As if nothing had happened: the final model is that of a run without interruption.
    assert_equals_one_process(federation, run, job)
