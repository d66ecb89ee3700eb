"""The cohort builder: every patient placed once, what a plan withholds is for scoring only."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from polyclinic.settings import load_settings
from polyclinic.study import load_study

POC = Path(__file__).parents[2] / "poc"
FILES = {"cnv": "brca_cnv", "he": "brca_hif", "mut": "brca_mut", "rna": "brca_rnaseq"}


@pytest.fixture
def cohorts(monkeypatch):
    monkeypatch.syspath_prepend(str(POC))
    sys.modules.pop("cohorts", None)
    import cohorts

    return cohorts


@pytest.fixture
def download(tmp_path):
    """Six patients of three hospitals; the last one is of a third histology."""
    folder = tmp_path / "download"
    folder.mkdir()
    ids = [f"P{i}" for i in range(6)]
    people = pd.DataFrame(
        {
            "patient": ids,
            "oncotree_code": ["IDC", "ILC", "IDC", "ILC", "IDC", "MBC"],
            "hospital": ["A", "A", "B", "B", "C", "C"],
            "region": ["West", None, "Europe", "Europe", "Canada", "Canada"],
        }
    )
    people.to_csv(folder / "patients.csv", index=False)
    index = pd.Index(ids, name="patient")
    for file in FILES.values():
        table = pd.DataFrame({"g1": [0, 1, 2, -2, 0, 1], "flat": [1] * 6}, index, dtype=np.int8)
        table["g2"] = np.array([1, -128, 0, 0, 2, 1], dtype=np.int8)
        table.to_parquet(folder / f"{file}.parquet")
    return folder


def built(cohorts, download, tmp_path, plan="paper3"):
    out = tmp_path / "out"
    code = cohorts.main(["tcga_brca", "--source", str(download), "--plan", plan, "--out", str(out)])
    assert code == 0
    return out


def test_every_patient_of_the_two_classes_is_at_exactly_one_site(cohorts, download, tmp_path):
    out = built(cohorts, download, tmp_path)
    seen = {s.name: list(pd.read_csv(s / "manifest.csv").patient_id) for s in out.glob("h*")}
    # P1 has no region of its own: its hospital's other patient lies in the West.
    assert seen == {"h1": ["P0", "P1"], "h2": ["P2", "P3"], "h3": ["P4"]}


def test_what_a_site_lacks_by_plan_is_written_for_evaluation_only(cohorts, download, tmp_path):
    out = built(cohorts, download, tmp_path)
    held = {}
    for site in ("h1", "h2", "h3"):
        source = load_settings(out / site / "polyclinic.yaml").cohort("tcga_brca")
        assert set(source.modalities) == {"cnv", "he"}
        assert all((out / site / m.table).is_file() for m in source.modalities.values())
        held[site] = source.held
    assert held == {"h1": ("he",), "h2": ("cnv", "he"), "h3": ("cnv",)}


def test_minus_128_is_missing_in_calls_and_a_value_in_features(cohorts, download, tmp_path):
    out = built(cohorts, download, tmp_path)
    calls = pd.read_parquet(out / "h1" / "cnv.parquet").set_index("patient_id")
    features = pd.read_parquet(out / "h1" / "he.parquet").set_index("patient_id")
    assert np.isnan(calls.loc["P1", "g2"])
    assert features.loc["P1", "g2"] == -128.0


def test_the_panel_is_one_for_all_and_leaves_out_columns_that_never_vary(
    cohorts, download, tmp_path
):
    study = load_study(built(cohorts, download, tmp_path))
    assert study.name == "tcga_brca"
    assert study.task.positive == "ILC"
    assert {m: v.features for m, v in study.modalities.items()} == {
        "cnv": ("g1", "g2"),
        "he": ("g1", "g2"),
    }


def test_the_panel_does_not_depend_on_the_labels(cohorts, download, tmp_path):
    first = (built(cohorts, download, tmp_path) / "panels.json").read_text()
    people = pd.read_csv(download / "patients.csv")
    people["oncotree_code"] = ["ILC", "IDC", "ILC", "IDC", "ILC", "MBC"]
    people.to_csv(download / "patients.csv", index=False)
    assert (built(cohorts, download, tmp_path) / "panels.json").read_text() == first


def test_a_hospital_named_by_a_site_wins_over_its_region(cohorts, download, tmp_path):
    plan = {
        "sites": {
            "all": {"regions": ["West", "Europe", "Canada"], "modalities": ["he"]},
            "b": {"hospitals": ["B"], "modalities": ["cnv"]},
        }
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    out = built(cohorts, download, tmp_path, str(tmp_path / "plan.json"))
    assert list(pd.read_csv(out / "b" / "manifest.csv").patient_id) == ["P2", "P3"]


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (
            {"sites": {"a": {"regions": ["West"], "modalities": ["he"]}}},
            "3 patients of 2 hospitals",
        ),
        ({"sites": {"a": {"regions": ["West"], "modalities": ["mri"]}}}, "mri"),
        ({"sites": {}}, "ValidationError"),
        ({"sites": {"a": {"regions": ["West"], "modalities": ["he"], "x": 1}}}, "ValidationError"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(cohorts, download, tmp_path, capsys, plan, told):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    argv = ["tcga_brca", "--source", str(download), "--plan", str(path), "--out", str(tmp_path)]
    assert cohorts.main(argv) == 4
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["brca_mut.parquet", "patients.csv"])
def test_a_download_that_lacks_a_file_is_refused_by_name(cohorts, download, tmp_path, capsys, name):
    (download / name).unlink()
    argv = ["tcga_brca", "--source", str(download), "--out", str(tmp_path / "out")]
    assert cohorts.main(argv) == 4
    assert name in capsys.readouterr().err


def test_sites_of_another_plan_in_the_same_folder_are_refused(cohorts, download, tmp_path, capsys):
    out = built(cohorts, download, tmp_path)
    argv = ["tcga_brca", "--source", str(download), "--plan", "four6", "--out", str(out)]
    assert cohorts.main(argv) == 4
    assert "another folder" in " ".join(capsys.readouterr().err.split())


@pytest.mark.data
@pytest.mark.parametrize(
    ("plan", "sizes"),
    [
        ("paper3", {"h1": 153 + 138, "h2": 249 + 130, "h3": 109 + 42 + 5}),
        (
            "four6",
            {"northeast": 249, "west": 153, "midwest": 109, "south": 138, "europe": 130}
            | {"canada": 42 + 5},
        ),
    ],
)
def test_the_826_breast_cancers_are_all_placed(cohorts, shared_data, tmp_path, plan, sizes):
    out = built(cohorts, shared_data / "tcga_brca", tmp_path, plan)
    found = {s.parent.name: len(pd.read_csv(s)) for s in out.glob("*/manifest.csv")}
    assert found == sizes
    assert sum(found.values()) == 826


@pytest.mark.data
@pytest.mark.parametrize("plan", ["paper3", "four6"])
def test_every_lung_site_has_both_classes(cohorts, shared_data, tmp_path, plan):
    out = tmp_path / "out"
    source = str(shared_data / "tcga_lung")
    assert cohorts.main(["tcga_lung", "--source", source, "--plan", plan, "--out", str(out)]) == 0
    for manifest in out.glob("*/manifest.csv"):
        assert set(pd.read_csv(manifest).subtype) == {"LUAD", "LUSC"}
    yaml_text = next(out.glob("*/polyclinic.yaml")).read_text()
    assert "rna" not in yaml.safe_load(yaml_text)["cohorts"]["tcga_lung"]["modalities"]
