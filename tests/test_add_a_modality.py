"""docs/add-a-modality.md adds modalities in configuration alone: its blocks, as they stand."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from polyclinic.comparison import run_federation
from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import open_cohort
from polyclinic.data.generated.film import film_pixels, write_png
from polyclinic.data.generator import generate_consortium
from polyclinic.jobs import load_job
from polyclinic.settings import load_settings

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "add-a-modality.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated consortium, in which site-3 also has proteins and films of hands."""
    folder = tmp_path_factory.mktemp("added")
    generate_consortium(folder, patients=(40, 40, 48))
    site = folder / "site-3"
    ids = pd.read_csv(site / "manifest.csv", dtype=str)["patient_id"].dropna().unique()
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.standard_normal((len(ids), 2)), columns=["EGFR", "ERBB2"], index=ids)
    table.rename_axis("patient_id").to_csv(site / "proteins.csv")
    (site / "hands").mkdir()
    for pseudonym in ids[: len(ids) // 2]:
        write_png(site / "hands" / f"{pseudonym}.png", film_pixels(draw.standard_normal(), draw))
    settings = yaml.safe_load((site / "polyclinic.yaml").read_text())
    (added,) = (yaml.safe_load(b) for b in blocks("yaml"))
    settings["cohorts"]["demo"]["modalities"] |= added
    settings["max_loss_fraction"] = 0.2
    (site / "polyclinic.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's job with the page's two blocks."""
    folder = tmp_path_factory.mktemp("jobs") / "mine"
    shutil.copytree(REPOSITORY / "jobs" / "fedmm_demo", folder)
    modalities, panels = (json.loads(b) for b in blocks("json"))
    for name, path, added in (
        ("study.json", ("modalities",), modalities),
        ("panels.json", (), panels),
    ):
        file = folder / "app" / "config" / name
        content = json.loads(file.read_text())
        place = content
        for key in path:
            place = place[key]
        place |= added
        file.write_text(json.dumps(content))
    return folder


def test_the_hospital_that_holds_them_passes_the_check(hospitals: Path, job: Path) -> None:
    study = load_job(job).study
    report = check_cohort(load_settings(hospitals / "site-3" / "polyclinic.yaml"), study)
    assert report.ok, [f for f in report.findings if f.level == "failed"]
    assert {"proteins", "hand"} <= {f.modality for f in report.findings}


def test_a_round_trains_them_where_they_are_and_sends_them_nowhere_else(
    hospitals: Path, job: Path
) -> None:
    said = load_job(job)
    sites = {
        s: open_cohort(load_settings(hospitals / s / "polyclinic.yaml"), said.study)
        for s in ("site-1", "site-3")
    }
    start = said.server.initial(said.study)
    result = run_federation(sites, said.client, said.server, said.study, 1)
    for modality in ("proteins", "hand"):
        names = [n for n in start.tensors if n.startswith(f"enc.{modality}.")]
        assert names
        moved = [n for n in names if (result.state.tensors[n] != start.tensors[n]).any()]
        assert moved
        contract = said.server.contract(said.study)
        assert not set(names) & set(contract.names_for(sites["site-1"].modalities))
        assert set(names) <= set(contract.names_for(sites["site-3"].modalities))
