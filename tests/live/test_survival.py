"""Killed job processes, restarted sites and a killed server, on the demo job over mutual TLS."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federation import REPO, SERVER, Federation, wait_for

from polyclinic.flare.resume import make_resume_job

JOB = REPO / "jobs" / "fedmm_demo"
DEADLINE = 40


def _job(folder: Path, rounds: int) -> Path:
    """The demo job with other numbers: many rounds, so that there is time for a fault."""
    job = folder / JOB.name
    shutil.copytree(JOB, job)
    path = job / "app" / "config" / "config_fed_server.json"
    config = json.loads(path.read_text())
    config["workflows"][0]["args"] |= {"rounds": rounds, "round_deadline": DEADLINE}
    path.write_text(json.dumps(config))
    return job


def _lines(federation: Federation, run: str) -> list[dict[str, Any]]:
    path = federation.kit(SERVER) / "storage" / "runs" / run / "ledger.jsonl"
    return [json.loads(s) for s in path.read_text().splitlines()] if path.exists() else []


def _rounds(federation: Federation, run: str) -> list[dict[str, Any]]:
    return [line for line in _lines(federation, run) if line["kind"] == "round"]


def _up(fresh_federation: Callable[..., Federation], consortium: Path) -> Federation:
    federation = fresh_federation()
    federation.install_data(consortium)
    return federation.bring_up()


def test_f01_a_job_goes_on_without_a_site_whose_job_process_is_killed(
    fresh_federation: Callable[..., Federation], consortium: Path, tmp_path: Path
) -> None:
    federation = _up(fresh_federation, consortium)
    run = federation.submit(_job(tmp_path, 30))
    wait_for(lambda: _rounds(federation, run), 90, "the first round")
    federation.kill("site-3", "job")
    assert federation.wait(run, 150) == "FINISHED:COMPLETED"
    rounds = _rounds(federation, run)
    without = [r for r in rounds if r["lost"] == ["site-3"]]
    assert without
    assert without[-1]["heard"] == ["site-1", "site-2"]
    assert max(r["seconds"] for r in rounds) < DEADLINE + 5
    assert _lines(federation, run)[-1]["status"] == "completed"


def test_f02_a_site_that_restarts_in_seconds_hangs_no_round_and_is_back_in_the_next_job(
    fresh_federation: Callable[..., Federation], consortium: Path, tmp_path: Path
) -> None:
    federation = _up(fresh_federation, consortium)
    run = federation.submit(_job(tmp_path / "first", 30))
    wait_for(lambda: _rounds(federation, run), 90, "the first round")
    federation.kill("site-2")
    time.sleep(4)
    federation.restart("site-2")
    assert federation.wait(run, 150).startswith("FINISHED")
    assert max(r["seconds"] for r in _rounds(federation, run)) < DEADLINE + 5
    assert _lines(federation, run)[-1]["status"] == "completed"
    federation.ready()
    again = federation.submit(_job(tmp_path / "second", 1))
    assert federation.wait(again, 120) == "FINISHED:COMPLETED"
    assert "site-2" in _rounds(federation, again)[0]["heard"]


def test_f05_a_killed_server_costs_at_most_one_round(
    fresh_federation: Callable[..., Federation], consortium: Path, tmp_path: Path
) -> None:
    federation = _up(fresh_federation, consortium)
    job = _job(tmp_path, 30)
    run = federation.submit(job)
    wait_for(lambda: len(_rounds(federation, run)) >= 3, 90, "three rounds")
    federation.kill(SERVER)
    done = len(_rounds(federation, run))
    federation.restart(SERVER)
    federation.forget_sessions()
    federation.ready()
    assert federation.status(run) == "FINISHED:ABNORMAL"
    folder = federation.kit(SERVER) / "storage" / "runs" / run
    resumed = federation.submit(make_resume_job(job, folder, tmp_path / "again" / job.name))
    assert federation.wait(resumed, 150) == "FINISHED:COMPLETED"
    numbers = [r["round"] for r in _rounds(federation, run)]
    assert numbers == list(range(1, 31))
    assert done >= 3
