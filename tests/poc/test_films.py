"""The builder of film sites: whole patients, known answers, nothing that gives one away."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from polyclinic.data.check import check_cohort
from polyclinic.settings import load_settings
from polyclinic.study import load_study

REPOSITORY = Path(__file__).parents[2]
PLANS = ("nih_hannover", "finding", "view", "icu")


@pytest.fixture
def cohorts(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "poc"))
    for name in ("cohorts", "films"):
        sys.modules.pop(name, None)
    import cohorts

    return cohorts


@pytest.fixture
def download(tmp_path):
    """Twelve NIH patients of two films, of whom every third is ill; three of Hannover; others."""
    folder = tmp_path / "download"
    (folder / "img").mkdir(parents=True)
    rows = []
    for i in range(12):
        for j in range(2):
            finding = "Effusion|Pneumonia" if i % 3 == 0 else "No Finding"
            film = {"image": f"nih_{1280 + i}_{j}", "node": "nih", "patient": f"nih_{1280 + i}"}
            rows.append(film | {"view": ("AP", "PA")[j], "finding": finding, "age": str(30 + i)})
    rows[0] |= {"finding": "Effusion"}  # neither pneumonia nor healthy
    for i in range(3):
        film = {"image": f"hannover_{i}", "node": "hannover", "patient": f"hannover_{i // 2}"}
        rows.append(film | {"view": "AP Supine", "finding": "COVID-19", "in_icu": "YN"[i % 2]})
    rows.append(rows[-1] | {"image": "hannover_side", "view": "lateral"})
    rows.append(rows[2] | {"image": "nih_61_0", "patient": "nih_61"})
    rows.append(rows[2] | {"image": "eurorad_1", "node": "eurorad", "patient": "e1"})
    labs = ["crp", "d_dimer", "factor_xii", "ldh", "lymphocytes", "neutrophils", "pco2", "po2"]
    frame = pd.DataFrame(rows).fillna("").assign(sex="F", **{f"lab_{n}": "<0.5" for n in labs})
    frame.to_csv(folder / "metadata.csv", index=False)
    for i, name in enumerate(frame["image"]):
        picture = Image.new("L", (16, 16), color=i)
        picture.putpixel((3, 3), 200)
        picture.save(folder / "img" / f"{name}.jpg")
    return folder


def built(cohorts, source, tmp_path, plan="nih_hannover"):
    out = tmp_path / "out"
    assert cohorts.main(["cxr", "--source", str(source), "--plan", plan, "--out", str(out)]) == 0
    return out


def manifests(out):
    return {
        path.parent.name: pd.read_csv(path, dtype=str, keep_default_na=False)
        for path in sorted(out.glob("*/manifest.csv"))
    }


def test_the_nih_is_two_sites_without_a_patient_in_common_and_without_its_easy_ids(
    cohorts, download, tmp_path
):
    found = manifests(built(cohorts, download, tmp_path))
    one, two = (set(found[s].patient_id) for s in ("nih_1", "nih_2"))
    assert not one & two
    assert one | two == {f"nih_{1280 + i}" for i in range(12)}
    assert len(one) == len(two) == 6
    # Two of the four ill patients each (the one whose other film is unclear among them).
    ill = [set(found[s].patient_id[found[s].pneumonia == "1"]) for s in ("nih_1", "nih_2")]
    assert [len(p) for p in ill] == [2, 2]


def test_the_same_download_gives_the_same_sites(cohorts, download, tmp_path):
    first = manifests(built(cohorts, download, tmp_path))
    again = manifests(built(cohorts, download, tmp_path / "again"))
    assert all(first[s].equals(again[s]) for s in first)


def test_what_is_not_known_is_blank_and_supine_is_ap_and_a_side_view_is_left_out(
    cohorts, download, tmp_path
):
    found = manifests(built(cohorts, download, tmp_path))
    assert set(found["hannover"].pneumonia) == {""}
    assert list(found["hannover"].film_id) == ["hannover_0", "hannover_1", "hannover_2"]
    assert set(found["hannover"].view_ap) == {"1"}
    nih = pd.concat([found["nih_1"], found["nih_2"]]).set_index("film_id")
    assert list(nih.loc[["nih_1280_0", "nih_1280_1", "nih_1281_0"], "pneumonia"]) == ["", "1", "0"]


def test_a_site_needs_nothing_outside_its_folder(cohorts, download, tmp_path):
    out = built(cohorts, download, tmp_path)
    for site in ("nih_1", "nih_2", "hannover"):
        source = load_settings(out / site / "polyclinic.yaml").cohort("cxr_nih_hannover")
        assert (source.patient_column, source.record_column) == ("patient_id", "film_id")
        listed = pd.read_csv(out / site / "cxr" / "files.csv")
        for name in listed.file:
            film = out / site / "cxr" / name
            assert film.is_file()
            assert not film.is_symlink()
    assert not list(out.rglob("hannover_side*"))


def test_the_view_is_no_input_where_it_is_predicted(cohorts, download, tmp_path):
    for plan in PLANS:
        out = built(cohorts, download, tmp_path / plan, plan)
        asked = {c.removesuffix("_ap") for c in load_study(out).task.columns}
        for table in [*out.glob("*/metadata.csv"), *out.glob("*/labs.csv")]:
            assert not asked & set(pd.read_csv(table).columns)


def test_limits_of_detection_stay_as_they_are_written(cohorts, download, tmp_path):
    out = built(cohorts, download, tmp_path)
    assert set(pd.read_csv(out / "hannover" / "labs.csv", dtype=str).lab_crp) == {"<0.5"}
    assert not (out / "nih_1" / "labs.csv").exists()


def test_the_main_plan_is_the_study_of_the_job(cohorts, download, tmp_path):
    out = built(cohorts, download, tmp_path)
    job = REPOSITORY / "jobs" / "cxr_metadata_nih_hannover" / "app" / "config"
    assert load_study(out).fingerprint() == load_study(job).fingerprint()


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"sites": {"a": {"node": "nih", "modalities": ["cxr"]}}}, "ValidationError"),
        (
            {
                "job": "cxr_metadata_nih_hannover",
                "sites": {"a": {"node": "nih", "modalities": ["mri"]}},
            },
            "mri",
        ),
        (
            {
                "job": "cxr_metadata_nih_hannover",
                "sites": {"a": {"node": "mars", "modalities": ["cxr"]}},
            },
            "films with an answer",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(cohorts, download, tmp_path, capsys, plan, told):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    out = str(tmp_path / "out")
    argv = ["cxr", "--source", str(download), "--plan", str(path), "--out", out]
    assert cohorts.main(argv) == 4
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_download_that_lacks_a_film_is_refused(cohorts, download, tmp_path, capsys):
    (download / "img" / "hannover_1.jpg").unlink()
    assert cohorts.main(["cxr", "--source", str(download), "--out", str(tmp_path / "out")]) == 4
    assert "hannover_1.jpg" in capsys.readouterr().err


@pytest.mark.data
def test_the_853_films_are_three_sites_that_check(cohorts, shared_data, tmp_path):
    out = built(cohorts, shared_data / "cxr", tmp_path)
    found = manifests(out)
    # README of the download: 610 films of patients 1280 to 3970, 243 of 71 patients in Hannover.
    assert len(found["nih_1"]) + len(found["nih_2"]) == 610
    assert (len(found["hannover"]), found["hannover"].patient_id.nunique()) == (243, 71)
    ill = [(found[s].pneumonia == "1").sum() for s in ("nih_1", "nih_2")]
    assert sum(ill) == 110  # 18 % of 610
    settings = load_settings(out / "hannover" / "polyclinic.yaml")
    report = check_cohort(settings, load_study(out))
    assert report.ok, [f for f in report.findings if f.level == "failed"]
