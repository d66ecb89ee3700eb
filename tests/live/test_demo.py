"""The tested path: provision, start, submit the demo job both ways, follow, download, read."""

from pathlib import Path

import pytest
from federation import REPO, SERVER, SITES, Federation
from runs import copy_job, ledger

JOB = REPO / "jobs" / "fedmm_demo"
ROUNDS = 2


@pytest.fixture
def short_job(tmp_path: Path) -> Path:
    """The demo job with two rounds; nothing else is changed."""
    return copy_job(JOB, tmp_path, rounds=ROUNDS)


def test_the_demo_job_completes_when_the_lead_submits_it_with_the_admin_api(
    federation: Federation, short_job: Path
) -> None:
    job_id = federation.submit(short_job)
    assert federation.wait(job_id, 180) == "FINISHED:COMPLETED"

    lines = ledger(federation, job_id)
    rounds = [line for line in lines if line["kind"] == "round"]
    assert [line["round"] for line in rounds] == [1, 2]
    assert lines[-1]["status"] == "completed"
    scored = next(line for line in lines if line["kind"] == "evaluate")
    assert set(scored["metrics"]) == set(SITES)

    result = federation.download(job_id)
    assert [p for p in result.rglob("*.safetensors") if "personal" not in p.name]
    assert list(result.rglob("ledger.jsonl"))


def test_personal_heads_stay_at_the_hospital_and_logs_do_too(federation: Federation) -> None:
    """After the run above: heads lie at the sites, and the server holds no line of their logs."""
    for site in SITES:
        assert list((federation.kit(site) / "storage" / "personal").rglob("*.safetensors"))
    server = federation.kit(SERVER)
    names = [p.name for p in server.rglob("*")]
    assert not [n for n in names if "personal" in n]
    assert not [n for n in names if n.startswith(("ERRORLOG", "LOG_"))]


def test_the_demo_job_completes_when_the_lead_submits_it_with_the_command(
    federation: Federation, short_job: Path, tmp_path: Path
) -> None:
    answer = federation.nvflare("job", "submit", "-j", str(short_job))
    assert answer["exit_code"] == 0, answer
    job_id = answer["data"]["job_id"]
    assert federation.nvflare("job", "wait", job_id, seconds=180)["exit_code"] == 0
    assert federation.status(job_id) == "FINISHED:COMPLETED"
    got = federation.nvflare("job", "download", job_id, "-o", str(tmp_path / "out"))
    assert got["exit_code"] == 0, got
    assert list((tmp_path / "out").rglob("ledger.jsonl"))
