"""A hospital that does the server's step, killed in the middle of it; and what must not leave one.

The right answer of such a job is known exactly: see ``flare/plugins/stepping.py``.
"""

import time
from pathlib import Path

import pytest
from federation import Federation, wait_for
from placing import offered_as_anchor
from runs import last_state, ledger, rounds
from stepper import ANCHOR_SITE, HANG, is_everywhere, write_stepping_job

from flare.plugins.stepping import ANCHOR_LEAKS, FILTER_LEAKS
from polyclinic.ledger import Record, read_ledger

DEADLINE_S = 12.0
FETCH_S = 4.0
TERMS = {"round_deadline": DEADLINE_S, "fetch_deadline": FETCH_S}
OTHERS = ["site-1", "site-3"]


@pytest.fixture
def federation(stepping: Federation) -> Federation:
    """A federation that may be killed, whole at the start of a test, of which one site offers."""
    offered_as_anchor(stepping.kit(ANCHOR_SITE), "demo")
    return stepping.mended()


def _steps(federation: Federation, run: str) -> list[Record]:
    """What the ledger says of every anchor step, the one before the first round included."""
    lines = ledger(federation, run)
    return [
        *(line for line in lines if line["kind"] == "anchor"),
        *(line["anchor"] for line in lines if line["kind"] == "round"),
    ]


def _hanging(federation: Federation, folder: Path) -> str:
    """A job whose anchor site is in the middle of the step after round 2."""
    behaviour = {ANCHOR_SITE: {"anchor 2": HANG}}
    run = federation.submit(write_stepping_job(folder / "job", 4, behaviour, **TERMS))
    told = "hangs in anchor 2"
    wait_for(lambda: told in federation.log(ANCHOR_SITE, run), 90, "the step after round 2")
    return run


def _went_on(federation: Federation, run: str) -> None:
    """The run ended well, without the steps from round 2 on, and no round took too long."""
    # FLARE's own word for it depends on whether it has given the site up by then.
    assert federation.wait(run, 150).startswith("FINISHED")
    assert ledger(federation, run)[-1]["status"] == "completed"
    closed, found = rounds(federation, run), _steps(federation, run)
    assert [r["heard"] for r in closed] == [OTHERS] * 4
    assert [r["status"] for r in closed] == ["folded"] * 4
    assert {s["site"] for s in found} == {ANCHOR_SITE}
    assert [s["status"] for s in found] == ["absorbed"] * 2 + ["kept_last"] * 3
    assert max([r["seconds"] for r in closed] + [s["seconds"] for s in found]) <= DEADLINE_S + 5
    end = last_state(federation, run)
    # 10 before round 1, 1 + 11, then 1 a round; the anchor is that of the second step.
    assert is_everywhere(end, "enc.", 10 + 12 + 3)
    assert end["store.anchor.l1"].tolist() == [[2.0, 2.0], [0.0, 0.0]]


def test_f01_an_anchor_sites_job_process_killed_in_its_step_costs_the_step_only(
    federation: Federation, tmp_path: Path
) -> None:
    run = _hanging(federation, tmp_path)
    federation.kill(ANCHOR_SITE, "job")
    _went_on(federation, run)
    assert [s.get("reason") for s in _steps(federation, run)[2:]] == ["lost"] * 3


def test_f02_an_anchor_site_killed_in_its_step_and_back_in_seconds_is_in_the_next_job(
    federation: Federation, tmp_path: Path
) -> None:
    run = _hanging(federation, tmp_path / "first")
    federation.kill(ANCHOR_SITE)
    time.sleep(4)
    federation.restart(ANCHOR_SITE)
    _went_on(federation, run)
    federation.ready()
    again = federation.submit(write_stepping_job(tmp_path / "again", 1, **TERMS))
    assert federation.wait(again, 120) == "FINISHED:COMPLETED"
    assert [s["status"] for s in _steps(federation, again)] == ["absorbed"] * 2


def test_f03_an_anchor_site_killed_in_its_step_that_stays_away_hangs_no_round(
    federation: Federation, tmp_path: Path
) -> None:
    run = _hanging(federation, tmp_path)
    federation.kill(ANCHOR_SITE)
    _went_on(federation, run)
    reasons = {s["reason"] for s in _steps(federation, run)[2:]}
    assert reasons <= {"late", "absent", "lost"}


def test_p12_what_a_site_keeps_of_filters_and_anchors_does_not_pass_its_kits_egress_filter(
    federation: Federation, tmp_path: Path
) -> None:
    leaks, stray = sorted(FILTER_LEAKS), sorted(ANCHOR_LEAKS)
    of_filters = {"site-3": {f"train {t}": leak for t, leak in enumerate(leaks, start=2)}}
    of_anchors = {ANCHOR_SITE: {f"anchor {t}": leak for t, leak in enumerate(stray)}}
    jobs = (
        write_stepping_job(
            tmp_path / "filters", len(leaks) + 1, of_filters, wants_anchor=False, **TERMS
        ),
        write_stepping_job(tmp_path / "anchors", len(stray), of_anchors, **TERMS),
    )
    one, other = (federation.submit(job) for job in jobs)
    for run in (one, other):
        assert federation.wait(run, 150) == "FINISHED:COMPLETED"
    stopped = "TASK_RESULT_FILTER_ERROR"
    closed = rounds(federation, one)
    assert [r["failed"] for r in closed] == [{}] + [{"site-3": stopped}] * len(leaks)
    assert [r["heard"] for r in closed[1:]] == [["site-1", "site-2"]] * len(leaks)
    found = _steps(federation, other)
    assert [s.get("reason") for s in found] == [stopped] * len(stray) + [None]
    for site, run, task in (("site-3", one, "train"), (ANCHOR_SITE, other, "anchor")):
        lines = read_ledger(federation.kit(site) / "storage" / "egress.jsonl")
        mine = [x["verdict"] for x in lines if (x["job"], x["task"]) == (run, task)]
        good, bad = ["sent"], ["refused"]
        kinds = good + bad * len(leaks) if site == "site-3" else bad * len(stray) + good
        assert mine == kinds
