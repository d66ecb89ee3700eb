"""Hospitals that answer wrongly, late or no more, beside honest ones: the model stays exact."""

import time
from pathlib import Path

import psutil
from federation import SERVER, SITES, Federation
from rogue import VICTIM, WRONGS, write_counting_job
from runs import last_state, ledger, rounds, run_folder

from polyclinic.flare.payload import largest_message

DEADLINE_S = 8.0


def is_everywhere(federation: Federation, run: str, value: float) -> bool:
    """Whether every entry of the last checkpoint is this number exactly."""
    return all((array == value).all() for array in last_state(federation, run).values())


def test_f07_f08_f13_to_f19_f24_whatever_one_site_answers_the_others_and_other_jobs_are_exact(
    workshop: Federation, tmp_path: Path
) -> None:
    wrongs = list(WRONGS)
    late, hung = len(wrongs) + 1, len(wrongs) + 3
    does = {str(t): wrong for t, wrong in enumerate(wrongs, start=1)}
    does |= {str(late): f"sleep {DEADLINE_S + 2}", str(hung): f"sleep {10 * DEADLINE_S}"}
    terms = {"round_deadline": DEADLINE_S, "fetch_deadline": DEADLINE_S - 2, "stages": ["train"]}
    poisoned = write_counting_job(tmp_path / "poisoned", hung, {"site-3": does}, **terms)
    clean = write_counting_job(tmp_path / "clean", 60, round_deadline=60)

    run, other = workshop.submit(poisoned), workshop.submit(clean)
    assert workshop.wait(other, 120) == "FINISHED:COMPLETED"
    assert workshop.wait(run, 120) == "FINISHED:COMPLETED"

    closed = rounds(workshop, run)
    told = {wrong: closed[t]["refused"] for t, wrong in enumerate(wrongs)}
    assert told == {w: {"site-3": reason} if reason else {} for w, (reason, _) in WRONGS.items()}
    for r in closed[: len(wrongs)]:
        assert r["heard"] == [s for s in SITES if s not in r["refused"]]
    assert [r["round"] for r in closed if r["late"] == ["site-3"]] == [late, hung]
    assert closed[late]["heard"] == list(SITES)  # it had slept into this round, and is back
    assert all(r["status"] == "folded" for r in closed)
    assert max(r["seconds"] for r in closed) <= DEADLINE_S + 5
    assert is_everywhere(workshop, run, hung)

    # F13: the claim did reach the server, which did not believe it.
    log = next(workshop.download(run).rglob("log.txt")).read_text()
    claims = [line for line in log.splitlines() if "got result from client site-3" in line]
    assert sum(f"peer={VICTIM}," in line for line in claims) == 2

    # F24: they ran at the same time, and nothing of one is in the other.
    assert overlap(workshop, run, other)
    assert [r["heard"] for r in rounds(workshop, other)] == [list(SITES)] * 60
    assert is_everywhere(workshop, other, 60)
    assert run not in (run_folder(workshop, other) / "ledger.jsonl").read_text()
    assert other not in (run_folder(workshop, run) / "ledger.jsonl").read_text()


def test_f20_a_transfer_that_is_huge_or_cut_costs_its_site_only(
    workshop: Federation, tmp_path: Path
) -> None:
    does = {"2": "f20 huge", "4": "f20 many", "6": "f20 dies while sending"}
    job = write_counting_job(tmp_path / "job", 7, {"site-3": does}, round_deadline=40)
    run = workshop.submit(job)
    sizes = memory_of_servers_job(workshop, run, rounds_to_see=5)
    assert workshop.wait(run, 150) == "FINISHED:COMPLETED"

    closed = rounds(workshop, run)
    refused = [r["refused"].get("site-3", "") for r in closed]
    assert refused == ["", "shape", "", "names", "", "", ""]
    both = [s for s in SITES if s != "site-3"]
    assert [r["heard"] for r in closed] == [list(SITES), both] * 2 + [list(SITES), both, both]
    assert closed[5]["lost"] == ["site-3"]
    assert is_everywhere(workshop, run, 7)
    # A message may have twice an update, which is a few bytes here, and 16 MiB around it; beside
    # that stand FLARE's own windows of 16 MiB a stream. Unbounded it grew by 389 MiB.
    grown = max(sizes) - sizes[0]
    assert grown <= 1.5 * largest_message(0) + (64 << 20), f"{grown >> 20} MiB"


def test_f20_an_update_that_is_no_message_costs_its_site_only(
    workshop: Federation, tmp_path: Path
) -> None:
    job = write_counting_job(
        tmp_path / "job", 3, {"site-3": {"2": "f20 garbage"}}, round_deadline=12
    )
    run = workshop.submit(job)
    assert workshop.wait(run, 150) == "FINISHED:COMPLETED"
    closed = rounds(workshop, run)
    assert [r["late"] for r in closed] == [[], ["site-3"], ["site-3"]]
    assert is_everywhere(workshop, run, 3)


def test_a_job_survives_an_event_and_a_task_that_one_site_sends(
    workshop: Federation, tmp_path: Path
) -> None:
    # That nobody acts on either is shown by tests/flare/test_endurance.py.
    does = {"1": "event", "2": "task"}
    job = write_counting_job(tmp_path / "job", 4, {"site-3": does}, round_deadline=20)
    run = workshop.submit(job)
    # FLARE would have ended the job in its first round.
    assert workshop.wait(run, 120) == "FINISHED:COMPLETED"
    assert [r["heard"] for r in rounds(workshop, run)] == [list(SITES)] * 4


def memory_of_servers_job(federation: Federation, run: str, rounds_to_see: int) -> list[int]:
    """Resident bytes of the server's job process over time, from its first closed round on."""
    found: list[int] = []
    until = time.monotonic() + 120
    while time.monotonic() < until:
        closed = len(rounds(federation, run))
        if closed:
            found += [size for pid in federation.pids(SERVER) if (size := resident(pid, run))]
        if closed >= rounds_to_see:
            break
        time.sleep(0.05)
    return found


def resident(pid: int, run: str) -> int:
    """Resident bytes of the process that runs this job; 0 of any other."""
    try:
        process = psutil.Process(pid)
        mine = any(run in word for word in process.cmdline())
        return int(process.memory_info().rss) if mine else 0
    except psutil.Error:
        return 0


def overlap(federation: Federation, *runs: str) -> bool:
    """Whether each of two runs began before the other ended."""
    first, second = ([r["time"] for r in ledger(federation, run)] for run in runs)
    return bool(first[0] < second[-1] and second[0] < first[-1])


def test_f04_f21_a_crash_is_named_and_two_rounds_without_a_quorum_end_the_run_unchanged(
    workshop: Federation, tmp_path: Path
) -> None:
    nan = dict.fromkeys(("3", "4"), "f14 nan")
    job = write_counting_job(
        tmp_path / "job", 9, {"site-3": {"2": "exit"}, "site-2": nan}, round_deadline=40
    )
    run = workshop.submit(job)
    assert workshop.wait(run, 120) == "FINISHED:EXECUTION_EXCEPTION"
    closed = rounds(workshop, run)
    assert [r["status"] for r in closed] == ["folded", "folded", "below_quorum", "below_quorum"]
    assert closed[1]["lost"] == ["site-3"]
    assert closed[1]["heard"] == ["site-1", "site-2"]
    assert [r["refused"] for r in closed[2:]] == [{"site-2": "not_finite"}] * 2
    assert ledger(workshop, run)[-1]["status"] == "failed_quorum"
    assert closed[-1]["checkpoint"] == closed[1]["checkpoint"]
    assert is_everywhere(workshop, run, 2)
