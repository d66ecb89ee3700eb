"""A site's training process under fire, in a federation with real processes.

Each fault must cost the site its reply and nothing more: the round goes on with the others, the
site is back in a later one, and an abort leaves no process behind.
"""

import os
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from federation import REPO, SERVER, SITES, Federation, wait_for
from runs import copy_job, rounds

JOB = REPO / "jobs" / "fedmm_demo"
DEADLINE_S = 20
CANARY = "Canaria^Jane TCGA-ZZ-CANARY 1951-03-02"


@pytest.fixture
def running(
    fresh_federation: Callable[..., Federation], consortium: Path, tmp_path: Path
) -> tuple[Federation, str]:
    """A federation in the middle of a long demo job, and the job's id."""
    made = fresh_federation()
    made.install_data(consortium)
    made.bring_up()
    job = copy_job(JOB, tmp_path, rounds=500, min_sites=2, round_deadline=DEADLINE_S)
    job_id = made.submit(job)
    until_round(made, job_id, 2)
    return made, job_id


def until_round(federation: Federation, job_id: str, last: int, seconds: float = 120) -> None:
    wait_for(lambda: len(rounds(federation, job_id)) >= last, seconds, f"round {last}")


def training_process(federation: Federation, site: str) -> int:
    """Process id of the child that holds the site's cohort."""
    for pid in federation.pids(site):
        if "polyclinic.worker" in " ".join(psutil.Process(pid).cmdline()):
            return pid
    raise AssertionError(f"{site} has no training process")


def back(federation: Federation, job_id: str, site: str, after: int) -> Callable[[], bool]:
    return lambda: any(site in r["heard"] for r in rounds(federation, job_id)[after:])


def test_faults_of_a_training_process_cost_replies_and_an_abort_leaves_none(
    running: tuple[Federation, str],
) -> None:
    federation, job_id = running

    os.kill(training_process(federation, "site-1"), signal.SIGKILL)
    killed = len(rounds(federation, job_id))
    wait_for(back(federation, job_id, "site-1", killed + 1), 90, "site-1 to be back")
    told = [r["failed"].get("site-1") for r in rounds(federation, job_id)]
    assert set(told) <= {None, "worker_lost"}
    assert told.count("worker_lost") <= 1  # none when it died between two tasks

    hung = training_process(federation, "site-2")
    os.kill(hung, signal.SIGSTOP)
    stopped = len(rounds(federation, job_id))
    wait_for(back(federation, job_id, "site-2", stopped + 1), 120, "site-2 to be back")
    without = [r for r in rounds(federation, job_id)[stopped:] if "site-2" not in r["heard"]]
    assert without
    assert all(r["seconds"] <= DEADLINE_S + 5 for r in without)
    assert all(r["status"] == "folded" for r in rounds(federation, job_id))
    assert not psutil.pid_exists(hung)

    os.kill(training_process(federation, "site-3"), signal.SIGSTOP)
    children = [training_process(federation, site) for site in SITES]
    federation.session().abort_job(job_id)
    federation.wait(job_id, 30)
    wait_for(lambda: not any(map(psutil.pid_exists, children)), 30, "the children to end")


def test_a_cohort_that_breaks_at_one_site_is_named_and_no_word_of_it_leaves(
    fresh_federation: Callable[..., Federation], consortium: Path, tmp_path: Path
) -> None:
    made = fresh_federation()
    copy = tmp_path / CANARY
    shutil.copytree(consortium, copy)
    made.install_data(copy)
    for path in (copy / "site-3").rglob("*.csv"):
        path.write_text(f"{CANARY},{CANARY}\n" + path.read_text())
    made.bring_up()
    job = copy_job(JOB, tmp_path, rounds=1, min_sites=2)
    job_id = made.submit(job)
    assert made.wait(job_id, 120) == "FINISHED:COMPLETED"
    assert rounds(made, job_id)[0]["heard"] == ["site-1", "site-2"]
    made.download(job_id)
    for place in (made.kit(SERVER), made.kit("lead")):
        for name, content in contents(place):
            assert not [w for w in CANARY.split() if w.encode() in content], name


def contents(place: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file below, and of every file in an archive among them."""
    for path in (p for p in place.rglob("*") if p.is_file()):
        yield path.name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())
