"""polyclinic job list, show and bundle on the shipped jobs."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from polyclinic.cli import main

JOBS = Path(__file__).parents[2] / "jobs"


def told(capsys, *argv):
    code = main.run(["job", *argv, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_list_names_every_job_with_its_algorithm_and_modalities(capsys):
    code, answer = told(capsys, "list", "--jobs", str(JOBS))
    found = {job["name"]: job for job in answer["data"]["jobs"]}
    assert code == 0
    assert set(found) == {path.parent.name for path in JOBS.glob("**/meta.json")}
    demo = found["fedmm_demo"]
    assert (demo["study"], demo["algorithm"]) == ("demo", "fedmm")
    assert [m["name"] for m in demo["modalities"]] == ["cnv", "metadata", "wsi"]


def test_the_repositorys_jobs_are_found_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert told(capsys, "list")[0] == 0


def test_a_job_is_shown_by_name_folder_or_archive(tmp_path, capsys):
    archive = tmp_path / "fedmm_demo.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in (JOBS / "fedmm_demo").rglob("*.json"):
            packed.write(path, path.relative_to(JOBS))
    for job in ("fedmm_demo", str(JOBS / "fedmm_demo"), str(archive)):
        code, answer = told(capsys, "show", job, "--jobs", str(JOBS))
        assert (code, answer["data"]["faults"]) == (0, [])


def test_the_size_of_films_and_volumes_is_shown(capsys):
    code, answer = told(capsys, "show", "fedmm_plus_five_kinds", "--jobs", str(JOBS))
    study = json.loads((JOBS / "fedmm_plus_five_kinds/app/config/study.json").read_text())
    sizes = {m["name"]: m["size"] for m in answer["data"]["job"]["modalities"]}
    assert code == 0
    shown = set()
    for name, modality in study["modalities"].items():
        if modality["kind"] in ("image", "volume"):
            shown.add(modality["kind"])
            assert " x ".join(map(str, modality["recipe"]["size"])) in sizes[name]
    assert shown == {"image", "volume"}


@pytest.mark.parametrize(("job", "said"), [("fedmepd_demo", True), ("fedmm_demo", False)])
def test_a_job_that_needs_an_anchor_site_says_so(job, said, capsys):
    code, answer = told(capsys, "show", job, "--jobs", str(JOBS))
    assert code == 0
    assert ("anchor: true" in answer["data"]["job"].get("anchor site", "")) == said


def test_a_server_with_data_of_its_own_is_no_hospital(tmp_path, capsys):
    job = shutil.copytree(JOBS / "fedmepd_demo", tmp_path / "fedmepd_demo")
    configs = [job / f"app/config/config_fed_{half}.json" for half in ("server", "client")]
    server, client = (json.loads(path.read_text()) for path in configs)
    half = client["executors"][0]["executor"]["args"]["client"]
    server["workflows"][0]["args"] |= {"anchor": "server", "anchor_client": half}
    configs[0].write_text(json.dumps(server))
    code, answer = told(capsys, "show", str(job))
    assert (code, answer["data"]["job"]["anchor site"][:5]) == (0, "none:")


@pytest.fixture
def spoiled(tmp_path):
    job = tmp_path / "fedmm_demo"
    shutil.copytree(JOBS / "fedmm_demo", job)
    (job / "app" / "custom").mkdir()
    (job / "app" / "custom" / "evil.py").write_text("print('hello')\n")
    return job


def test_a_job_with_a_fault_is_shown_with_exit_code_1(spoiled, capsys):
    code, answer = told(capsys, "show", str(spoiled))
    assert code == answer["exit_code"] == 1
    assert [f["what"] for f in answer["data"]["faults"]] == ["code in a job"]
    assert main.run(["job", "show", str(spoiled)]) == 1
    assert "code in a job" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_job_is_bad_input(capsys):
    code, answer = told(capsys, "show", "nope", "--jobs", str(JOBS))
    assert (code, answer["status"]) == (4, "error")


def test_a_bundle_is_the_job_with_the_code_inside(tmp_path, capsys):
    code, answer = told(capsys, "bundle", "fedmm_demo", str(tmp_path), "--jobs", str(JOBS))
    made = Path(answer["data"]["folder"])
    assert code == 0
    assert (made / "meta.json").read_text() == (JOBS / "fedmm_demo" / "meta.json").read_text()
    assert (made / "app" / "custom" / "polyclinic" / "flare" / "controller.py").is_file()


def test_a_job_with_a_fault_is_not_bundled(spoiled, tmp_path, capsys):
    code, _ = told(capsys, "bundle", str(spoiled), str(tmp_path / "out"))
    assert code == 4
    assert not (tmp_path / "out").exists()


def test_a_job_nested_too_deeply_is_listed_without_its_facts(tmp_path, capsys):
    config = tmp_path / "deep" / "app" / "config"
    config.mkdir(parents=True)
    for name in ("config_fed_server.json", "config_fed_client.json", "study.json"):
        (config / name).write_text("[" * 100_000)
    (tmp_path / "deep" / "meta.json").write_text("[" * 100_000)
    code, answer = told(capsys, "list", "--jobs", str(tmp_path))
    assert code == 0
    assert [(j["name"], j["study"]) for j in answer["data"]["jobs"]] == [("deep", None)]


@pytest.mark.parametrize("packed", [False, True])
def test_halves_that_do_not_fit_together_are_a_fault_also_in_an_archive(tmp_path, capsys, packed):
    job = tmp_path / "fedmm_demo"
    shutil.copytree(JOBS / "fedmm_demo", job)
    path = job / "app" / "config" / "config_fed_client.json"
    config = json.loads(path.read_text())
    config["executors"][0]["executor"]["args"]["client"]["args"]["head_hidden"] = 7
    path.write_text(json.dumps(config))
    if packed:
        shutil.make_archive(str(job), "zip", tmp_path, "fedmm_demo")
    code, answer = told(capsys, "show", f"{job}.zip" if packed else str(job))
    assert code == 1
    assert ["differ in head_hidden" in f["what"] for f in answer["data"]["faults"]] == [True]
