"""Every shipped job: sound by the lint, built by the science code, equal to the cohort's study."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from polyclinic.flare.lint import check_job
from polyclinic.jobs import load_job

REPOSITORY = Path(__file__).parents[1]
JOBS = sorted(path.parent for path in (REPOSITORY / "jobs").glob("**/meta.json"))
NAMES = [job.name for job in JOBS]


def test_the_jobs_of_the_release_are_there():
    assert set(NAMES) >= {
        "evaluate_tcga_brca",
        "fedavg_tcga_brca",
        "fedmm_demo",
        "fedmm_tcga_brca",
        "fedmm_tcga_nsclc",
    }


def test_no_two_jobs_share_a_name():
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("job", JOBS, ids=NAMES)
def test_a_job_may_be_submitted(job):
    assert check_job(job) == []


@pytest.mark.parametrize("job", JOBS, ids=NAMES)
def test_the_two_halves_of_a_job_fit_together(job):
    loaded = load_job(job)
    assert loaded.name == job.name
    assert loaded.server.contract(loaded.study).specs


@pytest.mark.parametrize("job", JOBS, ids=NAMES)
def test_a_panel_holds_names_and_no_data(job):
    path = job / "app" / "config" / "panels.json"
    for fields in json.loads(path.read_text()).values():
        assert set(fields) == {"features"}
        assert all(isinstance(name, str) for name in fields["features"])


@pytest.mark.data
@pytest.mark.parametrize(
    ("job", "cohort"),
    [
        ("fedmm_tcga_brca", "tcga_brca"),
        ("fedavg_tcga_brca", "tcga_brca"),
        ("evaluate_tcga_brca", "tcga_brca"),
        ("fedmm_tcga_nsclc", "tcga_lung"),
    ],
)
def test_a_jobs_study_is_the_one_the_cohort_builder_writes(shared_data, tmp_path, job, cohort):
    command = [sys.executable, str(REPOSITORY / "poc" / "cohorts.py"), cohort, "--plan", "paper3"]
    command += ["--source", str(shared_data / cohort), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    config = REPOSITORY / "jobs" / job / "app" / "config"
    for name in ("study.json", "panels.json"):
        assert (config / name).read_text() == (tmp_path / name).read_text()


def test_the_demo_jobs_study_is_the_one_the_generator_writes(tmp_path):
    from polyclinic.data.generator import write_study

    write_study(tmp_path)
    config = REPOSITORY / "jobs" / "fedmm_demo" / "app" / "config"
    for name in ("study.json", "panels.json"):
        assert json.loads((config / name).read_text()) == json.loads((tmp_path / name).read_text())
