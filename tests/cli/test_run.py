"""polyclinic run report: from a ledger, wherever it lies."""

import json
from pathlib import Path

import pytest

from polyclinic.cli import main
from polyclinic.ledger import Ledger


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "result" / "workspace" / "polyclinic"
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.append({"kind": "start", "run": "r1", "rounds": 0, "min_sites": 2, "study": "ab"})
    ledger.append({"kind": "census", "sites": {"a": {"modalities": ["he"], "counts": {"n": 3}}}})
    ledger.append({"kind": "end", "status": "completed", "reason": "", "round": 0})
    return tmp_path / "result"


@pytest.mark.parametrize("below", ["", "workspace", "workspace/polyclinic/ledger.jsonl"])
def test_the_ledger_is_found_at_or_below_the_place(run, tmp_path, below, capsys):
    page = tmp_path / "out" / "page.html"
    assert main.run(["run", "report", str(run / below), "-o", str(page)]) == 0
    assert "completed" in page.read_text()


def test_the_study_of_the_downloaded_job_gives_the_page_its_name(run, tmp_path):
    config = run / "workspace" / "app_server" / "config"
    config.mkdir(parents=True)
    (config / "study.json").write_text(
        json.dumps({"name": "lungs", "task": {"label": "y", "classes": ["no", "yes"]}})
    )
    page = tmp_path / "page.html"
    assert main.run(["run", "report", str(run), "-o", str(page)]) == 0
    assert "<h1>lungs</h1>" in page.read_text()


def test_a_place_without_a_ledger_or_with_several_is_refused(run, tmp_path, capsys):
    assert main.run(["run", "report", str(tmp_path / "nowhere")]) == 4
    Ledger(run / "other" / "ledger.jsonl").append({"kind": "start"})
    assert main.run(["run", "report", str(run), "--format", "json"]) == 4
    assert json.loads(capsys.readouterr().out)["message"].endswith("got one with 2.")


def test_an_altered_ledger_is_refused(run, tmp_path, capsys):
    path = run / "workspace/polyclinic/ledger.jsonl"
    path.write_text(path.read_text().replace('"r1"', '"r2"'))
    assert main.run(["run", "report", str(run), "-o", str(tmp_path / "p.html")]) == 4
    assert "unbroken chain" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "p.html").exists()


def test_an_empty_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.jsonl").touch()
    assert main.run(["run", "report", str(tmp_path), "-o", str(tmp_path / "p.html")]) == 4


@pytest.mark.parametrize("content", ["[]", "{", "", "{}", '{"settings": []}'])
def test_a_comparison_that_is_none_is_refused(run, tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    argv = ["run", "report", str(run), "--compare", str(tmp_path / "c.json")]
    assert main.run([*argv, "-o", str(tmp_path / "p.html")]) == 4


def compared(study, fingerprint):
    settings = {"study": study, "repeats": 1, "methods": {"m": {"study": fingerprint}}}
    return {"records": [], "seconds": [], "summary": {}, "settings": settings}


@pytest.mark.parametrize(
    ("known", "study", "fingerprint", "status"),
    [
        (True, "lungs", "of an adapted study", 0),
        (True, "hearts", "ab", 4),
        (False, "lungs", "ab", 0),  # the fingerprint of the fixture's ledger
        (False, "lungs", "cd", 4),
    ],
)
def test_a_comparison_of_another_study_is_refused(
    run, tmp_path, capsys, known, study, fingerprint, status
):
    if known:
        place = run / "workspace" / "polyclinic" / "study.json"
        place.write_text(json.dumps({"name": "lungs", "task": {"label": "y"}}))
    (tmp_path / "c.json").write_text(json.dumps(compared(study, fingerprint)))
    argv = ["run", "report", str(run), "--compare", str(tmp_path / "c.json")]
    assert main.run([*argv, "-o", str(tmp_path / "p.html")]) == status
    assert (tmp_path / "p.html").exists() == (status == 0)
    assert ("a comparison of the run's study" in " ".join(capsys.readouterr().err.split())) == (
        status == 4
    )


@pytest.mark.parametrize(("sites", "status"), [(["a"], 0), (["a", "b"], 4), (["b"], 4)])
def test_a_comparison_of_other_sites_is_refused(run, tmp_path, capsys, sites, status):
    content = compared("lungs", "ab")
    content["settings"]["sites"] = dict.fromkeys(sites, "a mark")
    (tmp_path / "c.json").write_text(json.dumps(content))
    argv = ["run", "report", str(run), "--compare", str(tmp_path / "c.json")]
    assert main.run([*argv, "-o", str(tmp_path / "p.html")]) == status
    assert ("on the run's sites a" in " ".join(capsys.readouterr().err.split())) == (status == 4)


def test_a_comparison_that_stopped_half_way_is_refused(run, tmp_path, capsys):
    content = compared("lungs", "ab")
    del content["summary"]
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert main.run(["run", "report", str(run), "--compare", str(tmp_path / "c.json")]) == 4
    assert "with --resume" in " ".join(capsys.readouterr().err.split())


def test_the_resume_job_continues_after_the_last_round(tmp_path, capsys):
    folder = tmp_path / "runs" / "r1"
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.append({"kind": "start", "run": "r1", "round": 0, "checkpoint": {}})
    ledger.append({"kind": "round", "round": 1, "status": "folded", "checkpoint": {}})
    job = Path(__file__).parents[2] / "jobs" / "fedmm_demo"
    argv = ["run", "resume", str(folder), "--job", str(job), "-o", str(tmp_path / "out")]
    assert main.run(argv) == 0
    config = tmp_path / "out" / "fedmm_demo" / "app" / "config"
    server = json.loads((config / "config_fed_server.json").read_text())
    client = json.loads((config / "config_fed_client.json").read_text())
    assert server["workflows"][0]["args"]["run"] == "r1"
    assert server["workflows"][0]["args"]["start_round"] == 1
    assert client["executors"][0]["executor"]["args"]["run"] == "r1"
    assert main.run(argv) == 4  # the folder exists now
