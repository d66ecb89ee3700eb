"""``polyclinic compare`` on the generated consortium."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from comparing import compare
from polyclinic.algorithms import multi_fedavg
from polyclinic.algorithms.base import Trained
from polyclinic.algorithms.presets import METHODS
from polyclinic.algorithms.presets_scan import SCANS
from polyclinic.cli.main import run
from polyclinic.data.generated.tumours import generate_tumour_consortium
from polyclinic.errors import TrainingDiverged
from polyclinic.study import load_study
from scan_site import scan_study

REPOSITORY = Path(__file__).resolve().parents[2]


def test_records_hold_every_method_site_and_test(consortium: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    methods = "local,multi_fedavg,fedmm,centralised"
    assert compare(consortium, out, "--workers", "1", methods=methods) == 0

    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result["records"][0]) == {"method", "site", "repeat", "test", "metric", "value"}
    found = {(r["method"], r["site"], r["test"]) for r in result["records"]}
    sites = ("site-1", "site-2", "site-3")
    assert found == {
        (m, s, t) for m in methods.split(",") for s in sites for t in ("own", "pooled")
    }
    assert {r["metric"] for r in result["records"]} == {
        "auroc",
        "auprc",
        "balanced_accuracy",
        "brier",
    }
    assert all(0.0 <= r["value"] <= 1.0 for r in result["records"])
    pooled = result["summary"]["pooled"]["auroc"]
    assert pooled["centralised"]["gap_closed"] == 1.0
    assert set(pooled["fedmm"]["sites"]) == set(sites)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_figure(consortium: Path, tmp_path: Path) -> None:
    results = []
    for workers in ("1", "2"):
        out = tmp_path / f"{workers}.json"
        assert compare(consortium, out, "--workers", workers) == 0
        results.append(json.loads(out.read_text(encoding="utf-8"))["records"])
    assert results[0] == results[1]


def test_a_folder_of_sites_stands_for_its_sites(
    consortium: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "--sites", str(consortium), "--methods", "local", "--repeats", "1"]
    assert run([*command, "--rounds", "0", "--workers", "1", "--format", "json"]) == 0
    envelope = json.loads(capsys.readouterr().out)
    assert set(envelope["data"]["summary"]["own"]["auroc"]["local"]["sites"]) == {
        "site-1",
        "site-2",
        "site-3",
    }


def test_missing_scores_the_same_patients_with_a_modality_hidden(
    consortium: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    words = ["--workers", "1", "--missing", "wsi:0,1"]
    assert compare(consortium, out, *words, methods="local") == 0

    result = json.loads(out.read_text(encoding="utf-8"))
    value = {
        (r["site"], r["test"]): r["value"] for r in result["records"] if r["metric"] == "brier"
    }
    for site in ("site-1", "site-2", "site-3"):
        for test in ("own", "pooled"):
            whole, none = (value[site, f"{test}, wsi {rate} % missing"] for rate in (0, 100))
            assert whole == value[site, test]
            assert (none == whole) == (site == "site-3")  # which holds no slides
    assert result["settings"]["missing"] == {"modality": "wsi", "rates": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sites", "nowhere"], "polyclinic.yaml"),
        (["--methods", "fedmn"], "fedmn"),
        (["--missing", "mri:0,1"], "metadata"),
    ],
)
def test_bad_input_is_exit_code_4_and_one_sentence(
    words: list[str], said: str, consortium: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", "--sites", str(consortium), *words, "--repeats", "1"]) == 4
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_every_method_builds_two_halves_of_one_contract(name: str, consortium: Path) -> None:
    method = METHODS[name]
    client, server = method.halves()
    films = REPOSITORY / "jobs" / "cxr_metadata_nih_hannover" / "app" / "config"
    place = films if name.startswith("cxr_") else consortium
    study = method.adapted(scan_study() if name in SCANS else load_study(place))
    contract = server.contract(study)
    assert client.contract(study) == contract
    sent = contract.names_for(study.modalities, "state")
    assert set(server.initial(study).tensors) == sent


@pytest.mark.parametrize("workers", ["1", "2"])
def test_two_sites_of_one_name_are_one_sentence(
    workers: str, consortium: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(consortium / "site-3", tmp_path / "again")
    sites = [str(consortium / "site-3"), str(tmp_path / "again"), "--study", str(consortium)]
    command = ["compare", "--sites", *sites, "--repeats", "1", "--methods", "local"]
    assert run([*command, "--workers", workers, "--format", "json"]) == 4
    assert "different site names" in json.loads(capsys.readouterr().out)["message"]


def test_a_site_that_cannot_take_part_is_one_sentence_from_a_worker_too(
    consortium: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(consortium / "site-3", tmp_path / "site-3")
    (tmp_path / "site-3" / "manifest.csv").unlink()
    sites = ["--sites", str(tmp_path), "--study", str(consortium), "--workers", "2"]
    command = ["compare", *sites, "--repeats", "1", "--methods", "local", "--format", "json"]
    assert run(command) == 4
    assert json.loads(capsys.readouterr().out)["code"] == "rejected"


@pytest.mark.parametrize("place", ["/proc/none/out.json", "."])
def test_a_result_that_cannot_be_written_is_told_before_anything_is_trained(
    place: str,
    consortium: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("polyclinic.cli.compare.runs_of", lambda *_: pytest.fail("was trained"))
    assert compare(consortium, Path(place)) == 4
    assert "can be written" in " ".join(capsys.readouterr().err.split())


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *repeats: int) -> None:
    """Let these runs of Multi-FedAvg fail; all when none is named."""

    class Diverging(multi_fedavg.Client):
        def train(self, patients: Any, *rest: Any, **named: Any) -> Trained:
            if not repeats or patients.study.seed - 3 in repeats:
                raise error
            return super().train(patients, *rest, **named)

    spoiled = dataclasses.replace(METHODS["multi_fedavg"], client=Diverging)
    monkeypatch.setitem(METHODS, "multi_fedavg", spoiled)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TrainingDiverged(expected="numbers", got="NaN", remedy="lower the step size"), "lower"),
        (MemoryError("no more"), "MemoryError"),
    ],
)
def test_a_run_that_fails_costs_only_itself(
    error: Exception,
    said: str,
    consortium: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, error)
    out = tmp_path / "out.json"
    methods = "multi_fedavg,local"
    assert compare(consortium, out, "--workers", "1", methods=methods) == 1

    result = json.loads(out.read_text(encoding="utf-8"))
    assert [(f["method"], f["repeat"]) for f in result["failed"]] == [("multi_fedavg", 0)]
    assert set(result["summary"]["own"]["auroc"]) == {"local"}
    told = capsys.readouterr()
    assert "runs that failed" in told.out
    assert "multi_fedavg, repeat 0, failed:" in told.err
    assert said in result["failed"][0]["reason"]


def test_a_comparison_of_which_nothing_is_left_is_an_error(
    consortium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, MemoryError())
    out = tmp_path / "out.json"
    assert compare(consortium, out, "--workers", "1", methods="multi_fedavg") == 4


def test_methods_are_compared_on_the_repeats_that_all_have_and_a_failure_is_kept(
    consortium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, MemoryError(), 1)
    out, two = tmp_path / "out.json", ["--workers", "1", "--repeats", "2"]
    assert compare(consortium, out, *two, methods="local,multi_fedavg") == 1
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {r["repeat"] for r in result["records"] if r["method"] == "local"} == {0, 1}
    assert result["summary"]["own"]["auroc"]["local"]["n"] == 1
    # Asking for the rest only does not make it whole.
    assert compare(consortium, out, *two, "--resume", methods="local") == 1
    again = json.loads(out.read_text(encoding="utf-8"))
    assert (again["failed"], again["summary"]) == (result["failed"], result["summary"])


def test_a_job_called_like_a_method_is_refused(
    consortium: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = shutil.copytree(REPOSITORY / "jobs" / "fedmm_demo", tmp_path / "local")
    assert compare(consortium, tmp_path / "out.json", "--job", str(job)) == 4
    assert "not called like a method" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_scans_are_compared_by_methods_for_scans_with_an_anchor_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate_tumour_consortium(tmp_path)
    few = ["--repeats", "1", "--rounds", "1", "--no-pooled", "--workers", "1"]
    sites = [str(tmp_path / s) for s in ("site-2", "site-3")]
    for words in (["--methods", "local,fedmepd"], ["--methods", "fedmepd"]):
        started = time.monotonic()
        assert run(["compare", "--sites", *sites, *few, *words]) == 4
        assert time.monotonic() - started < 10  # before anything is read
    told = " ".join(capsys.readouterr().err.split())
    assert "methods for 'tumours', among scan_local" in told
    assert "which fedmepd needs" in told

    assert run(["compare", "--sites", str(tmp_path), *few, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["data"]["summary"]["own"]["dice"]
    assert set(found) == {"scan_local", "scan_fedavg_keyed", "fedmepd"}


@pytest.mark.parametrize("named", ["nobody", "site-1,site-2,site-3"])
def test_sites_aside_are_some_of_those_that_are_there(
    named: str, consortium: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(consortium, tmp_path / "out.json", "--aside", named) == 4
    assert "some, not all" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_ends_the_comparison_and_its_workers(
    number: signal.Signals, consortium: Path
) -> None:
    command = [sys.executable, "-m", "polyclinic.cli.main", "compare", "--sites", str(consortium)]
    command += ["--methods", "local", "--repeats", "200", "--rounds", "50"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        parent = psutil.Process(running.pid)
        deadline = time.monotonic() + 60
        while len(parent.children()) < 3 and time.monotonic() < deadline:  # two and their tracker
            time.sleep(0.2)
        workers = parent.children()
        time.sleep(1.0)  # while workers start, the parent too ignores Ctrl-C
        running.send_signal(number)
        try:
            told, _ = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode not in (0, 1)
    assert b"Traceback" not in told
    assert (b"stopped after" in told) == (number == signal.SIGINT)
    assert len(workers) >= 3
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, f"{len(gone)} of {len(workers)} ended"
