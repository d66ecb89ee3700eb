"""The FLARE run of a job equals the federation in one process: tensors, heads and scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from federation import REPO, Federation
from placing import added_cohorts
from runs import assert_equals_one_process, copy_job, last_state, rounds

from polyclinic.data.generated.five import generate_five_kinds
from polyclinic.data.generated.tumours import generate_tumour_consortium


@pytest.mark.parametrize("name", ["fedmm_demo"])
def test_a_provisioned_run_equals_the_one_process_run_within_1e_5(
    federation: Federation, tmp_path: Path, name: str
) -> None:
    job = copy_job(REPO / "jobs" / name, tmp_path, rounds=3)
    run = federation.submit(job)
    assert federation.wait(run, 180) == "FINISHED:COMPLETED"
    assert_equals_one_process(federation, run, job)


def test_films_scans_series_and_tables_train_through_flare_as_they_do_in_one_process(
    federation: Federation, tmp_path: Path
) -> None:
    sites = generate_five_kinds(tmp_path / "five", patients=(90, 90, 100))
    job = copy_job(REPO / "jobs" / "fedmm_plus_five_kinds", tmp_path, rounds=2)
    change_study(job, lambda study: study["modalities"].pop("wsi"))  # features take a minute more
    with added_cohorts({federation.kit(s.name): s for s in sites}):
        run = federation.submit(job)
        assert federation.wait(run, 240) == "FINISHED:COMPLETED"
        assert_equals_one_process(federation, run, job)


def test_joined_films_and_metadata_with_augmentation_equal_one_process(
    federation: Federation, tmp_path: Path
) -> None:
    sites = generate_five_kinds(tmp_path / "five", 1, patients=(90, 90, 100))
    job = tmp_path / "cxr_metadata_nih_hannover"
    shutil.copytree(REPO / "jobs" / "cxr_metadata_nih_hannover", job)
    five = REPO / "jobs" / "fedmm_plus_five_kinds" / "app" / "config" / "study.json"
    shutil.copy(five, job / "app" / "config" / "study.json")

    def films_and_metadata(study: dict[str, Any]) -> None:
        study["modalities"] = {m: study["modalities"][m] for m in ("cxr", "metadata", "cnv")}
        study["modalities"]["cxr"]["recipe"]["augment"] = {"rotate_degrees": 5.0, "shift": 0.05}

    change_study(job, films_and_metadata)
    job = copy_job(job, tmp_path / "copy", rounds=2)
    with added_cohorts({federation.kit(s.name): s for s in sites}):
        run = federation.submit(job)
        assert federation.wait(run, 240) == "FINISHED:COMPLETED"
        assert_equals_one_process(federation, run, job)


def test_scans_with_an_anchor_site_and_personal_filters_equal_one_process(
    federation: Federation, tmp_path: Path
) -> None:
    sites = generate_tumour_consortium(tmp_path / "tumours", patients=(24, 24, 24, 20))
    sites = sites[: len(federation.sites)]
    job = copy_job(REPO / "jobs" / "fedmepd_demo", tmp_path, rounds=4)
    # Filters become personal as soon as they may.
    change_client(job, patience=1, pretrain=1)
    with added_cohorts({federation.kit(s.name): s for s in sites}):
        run = federation.submit(job)
        assert federation.wait(run, 240) == "FINISHED:COMPLETED"
        assert_equals_one_process(federation, run, job)
    steps = [r["anchor"]["status"] for r in rounds(federation, run)]
    assert steps == ["absorbed"] * 4
    assert last_state(federation, run)["store.anchor.known"].any()
    told = [r["metrics"]["site-2"]["filters/personal"] for r in rounds(federation, run)]
    assert told[:2] == [0.0, 0.0]
    assert 0 < told[-1] < 1


def change_client(job: Path, **args: Any) -> None:
    """Give a job's client half other arguments."""
    path = job / "app" / "config" / "config_fed_client.json"
    config = json.loads(path.read_text())
    config["executors"][0]["executor"]["args"]["client"]["args"] |= args
    path.write_text(json.dumps(config))


def change_study(job: Path, change: Any) -> None:
    """Rewrite a job's ``study.json``."""
    path = job / "app" / "config" / "study.json"
    study = json.loads(path.read_text())
    change(study)
    path.write_text(json.dumps(study))
