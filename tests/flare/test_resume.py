"""A run goes on where its ledger ends, and ends as if nothing had happened."""

import json
from pathlib import Path

import pytest

from flare.ward import Ward, of_kind, plain, plus_one
from polyclinic.errors import CheckpointError, StudyError
from polyclinic.flare.resume import make_resume_job

SITES = ("site-1", "site-2", "site-3")


def _job(folder: Path, rounds: int = 6, run: str = "") -> Path:
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    (folder / "meta.json").write_text("{}", encoding="utf-8")
    rounds_ = {"path": "polyclinic.flare.controller.Rounds", "args": {"rounds": rounds}}
    server = {"format_version": 2, "workflows": [{"id": "rounds", **rounds_}]}
    site = {"path": "polyclinic.flare.executor.SiteExecutor", "args": {"client": {}}}
    client = {"format_version": 2, "executors": [{"tasks": ["*"], "executor": site}]}
    (config / "config_fed_server.json").write_text(json.dumps(server), encoding="utf-8")
    (config / "config_fed_client.json").write_text(json.dumps(client), encoding="utf-8")
    return folder


def _storage(folder: Path) -> None:
    (folder / "local").mkdir(parents=True, exist_ok=True)
    text = "site: server\nstorage: ../state\n"
    (folder / "local" / "polyclinic.yaml").write_text(text, encoding="utf-8")


def _ward(folder: Path, job: str) -> Ward:
    return Ward(folder, {s: plus_one(s) for s in SITES}, job)


def test_f05_a_resumed_run_ends_bit_for_bit_like_one_that_was_never_interrupted(
    tmp_path: Path,
) -> None:
    _storage(tmp_path / "a")
    _ward(tmp_path / "a", "job-1").run(plain(5, stages=["train"]))
    _storage(tmp_path / "b")
    _ward(tmp_path / "b", "job-1").run(plain(3, stages=["train"]))
    resumed = plain(5, stages=["train"], run="job-1", start_round=3)
    records = _ward(tmp_path / "b", "job-2").run(resumed)
    rounds = [r["round"] for r in of_kind(records, "round")]
    assert rounds == [1, 2, 3, 4, 5]
    name = "state/runs/job-1/checkpoints/round_00005.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_resume_job_names_the_run_and_the_round_and_no_path(tmp_path: Path) -> None:
    _storage(tmp_path / "s")
    _ward(tmp_path / "s", "job-1").run(plain(2, stages=["train"]))
    job = _job(tmp_path / "job")
    out = make_resume_job(job, tmp_path / "s" / "state" / "runs" / "job-1", tmp_path / "out")
    config = out / "app" / "config"
    server = json.loads((config / "config_fed_server.json").read_text(encoding="utf-8"))
    client = json.loads((config / "config_fed_client.json").read_text(encoding="utf-8"))
    assert server["workflows"][0]["args"] == {"rounds": 6, "run": "job-1", "start_round": 2}
    assert client["executors"][0]["executor"]["args"]["run"] == "job-1"
    assert str(tmp_path) not in json.dumps([server, client])


def test_a_downloaded_job_serves_as_well_as_the_servers_storage(tmp_path: Path) -> None:
    _storage(tmp_path / "s")
    _ward(tmp_path / "s", "job-1").run(plain(2, stages=["train"]))
    downloaded = tmp_path / "s" / "job-1" / "polyclinic"
    out = make_resume_job(_job(tmp_path / "job"), downloaded, tmp_path / "out")
    assert (out / "meta.json").exists()
    assert (downloaded / "checkpoints" / "last.safetensors").exists()
    assert json.loads((downloaded / "record.json").read_text())["status"] == "completed"


def test_a_resume_at_another_round_than_the_last_is_refused(tmp_path: Path) -> None:
    _storage(tmp_path)
    _ward(tmp_path, "job-1").run(plain(3, stages=["train"]))
    ward = _ward(tmp_path, "job-2")
    ward.run(plain(5, run="job-1", start_round=2))
    assert "resume at round 3" in ward.panics[0]


def test_a_resume_from_an_altered_checkpoint_is_refused(tmp_path: Path) -> None:
    _storage(tmp_path)
    _ward(tmp_path, "job-1").run(plain(3, stages=["train"]))
    path = tmp_path / "state" / "runs" / "job-1" / "checkpoints" / "round_00003.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    ward = _ward(tmp_path, "job-2")
    ward.run(plain(5, run="job-1", start_round=3))
    assert "SHA-256" in ward.panics[0]


@pytest.mark.parametrize("run", ["../../etc", "a/b", ".hidden", "x" * 65])
def test_a_run_id_from_a_job_cannot_leave_the_storage(tmp_path: Path, run: str) -> None:
    _storage(tmp_path)
    ward = _ward(tmp_path, "job-2")
    assert ward.run(plain(5, run=run)) == []
    assert "run id" in ward.panics[0]


def test_a_run_without_a_start_or_with_fewer_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        make_resume_job(_job(tmp_path / "job"), tmp_path / "none", tmp_path / "out")
    _storage(tmp_path / "s")
    _ward(tmp_path / "s", "job-1").run(plain(3, stages=["train"]))
    short = _job(tmp_path / "short", rounds=2)
    with pytest.raises(StudyError, match="rounds"):
        make_resume_job(short, tmp_path / "s" / "state" / "runs" / "job-1", tmp_path / "out2")
