"""The builder of glioma sites: slices in order, sequences that were made, whole patients."""

import io
import shutil
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import open_cohort
from polyclinic.settings import load_settings
from polyclinic.study import load_study

REPOSITORY = Path(__file__).parents[2]
DOWNLOAD = REPOSITORY.parent / "shared" / "data" / "lgg_mri"
HOSPITALS = {"DU": 24, "HT": 6, "FG": 5, "CS": 5, "EZ": 1}
SITES = ("du", "du_anchor", "ht", "fg", "cs")


@pytest.fixture
def cohorts(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "poc"))
    for name in ("cohorts", "lgg", "lgg_download", "scans"):
        sys.modules.pop(name, None)
    import cohorts

    return cohorts


def picture(seed: int, mode: str) -> bytes:
    draw = np.random.default_rng(seed)
    stream = io.BytesIO()
    if mode == "RGB":
        image = Image.fromarray(draw.integers(0, 255, (128, 128, 3), dtype=np.uint8))
        image.save(stream, "webp", lossless=True)
    else:
        Image.fromarray(draw.random((128, 128)) > 0.9).save(stream, "png")
    return stream.getvalue()


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Patients of five hospitals with 3 slices each; the first of a hospital lacks ``post``."""
    folder = tmp_path_factory.mktemp("download")
    people, slices, seed = [], [], 0
    for hospital, count in HOSPITALS.items():
        with zipfile.ZipFile(folder / f"{hospital}.zip", "w") as archive:
            for i in range(count):
                p = f"TCGA_{hospital}_{i:04d}"
                has = {"has_pre": 1, "has_flair": 1, "has_post": int(i > 0)}
                people.append({"patient": p, "hospital": hospital, **has})
                for number in (10, 2, 9):  # by name in another order than by number
                    name = f"{p}/{number}"
                    slices.append({"patient": p, "slice": number, "name": name})
                    archive.writestr(f"{name}.webp", picture(seed, "RGB"))
                    archive.writestr(f"{name}_mask.png", picture(seed, "1"))
                    seed += 1
    pd.DataFrame(people).to_csv(folder / "patients.csv", index=False)
    pd.DataFrame(slices).to_csv(folder / "slices.csv", index=False)
    return folder


def built(cohorts, source, out, plan="sites5"):
    assert cohorts.main(["lgg", "--source", str(source), "--plan", plan, "--out", str(out)]) == 0
    return out


def ids(folder: Path) -> list[str]:
    return (folder / "manifest.csv").read_text().split()[1:]


def test_every_patient_is_at_one_site_and_the_anchor_has_whole_ones(cohorts, download, tmp_path):
    out = built(cohorts, download, tmp_path / "out")
    members = {s: ids(out / s) for s in SITES}
    assert {s: len(mine) for s, mine in members.items()} == {
        "du": 9,
        "du_anchor": 15,
        "ht": 6,
        "fg": 5,
        "cs": 5,
    }
    everyone = [p for mine in members.values() for p in mine]
    assert len(set(everyone)) == len(everyone) == 40  # the one patient of EZ is left out
    assert "TCGA_DU_0000" in members["du"]  # who lacks a sequence


def test_slices_are_stacked_in_order_and_what_was_never_made_is_not_written(
    cohorts, download, tmp_path
):
    out = built(cohorts, download, tmp_path / "out")
    folder = out / "ht" / "scans" / "TCGA_HT_0001"
    with zipfile.ZipFile(download / "HT.zip") as archive:
        for k, number in enumerate((2, 9, 10)):
            stored = io.BytesIO(archive.read(f"TCGA_HT_0001/{number}.webp"))
            pixels = np.asarray(Image.open(stored).convert("RGB"))
            for channel, sequence in enumerate(("pre", "flair", "post")):
                image = nib.load(folder / f"TCGA_HT_0001_{sequence}.nii.gz")
                assert image.shape == (128, 128, 3)
                np.testing.assert_array_equal(image.affine, np.eye(4))
                shown = np.asarray(image.dataobj)[::-1, ::-1, k].T
                np.testing.assert_array_equal(shown, pixels[..., channel])
            marks = io.BytesIO(archive.read(f"TCGA_HT_0001/{number}_mask.png"))
            mask = np.asarray(nib.load(folder / "TCGA_HT_0001_seg.nii.gz").dataobj)
            assert set(np.unique(mask)) == {0, 1}
            np.testing.assert_array_equal(mask[::-1, ::-1, k].T, np.asarray(Image.open(marks)))
    lacks = {p.name for p in (out / "ht" / "scans" / "TCGA_HT_0000").iterdir()}
    assert lacks == {f"TCGA_HT_0000_{w}.nii.gz" for w in ("pre", "flair", "seg")}


def test_sites_are_ready_to_train_on_what_the_plan_leaves_them(cohorts, download, tmp_path):
    out = built(cohorts, download, tmp_path / "out")
    study = load_study(out)
    held = {"ht": ("flair", "post"), "fg": ("flair", "pre"), "cs": ("flair",)}
    for site, names in held.items():
        settings = load_settings(out / site / "polyclinic.yaml")
        assert check_cohort(settings, study).ok
        cohort = open_cohort(settings, study)
        assert cohort.modalities == names
        assert set(next(cohort.with_evaluation_only().batches("test", 1)).inputs) == {
            "flair",
            "post",
            "pre",
        }
        assert next(cohort.batches("test", 1)).inputs["flair"].shape == (1, 1, 128, 128, 3)
    header = (out / "ht" / "polyclinic.yaml").read_text()
    assert "minimum_cell is 1 because these patients are published one by one" in header


def test_the_same_seed_draws_the_same_anchor(cohorts, download, tmp_path):
    one, other = (built(cohorts, download, tmp_path / n) for n in "ab")
    assert ids(one / "du_anchor") == ids(other / "du_anchor")


def test_a_plan_that_takes_more_than_there_is_is_bad_input(cohorts, download, tmp_path):
    source = shutil.copytree(download, tmp_path / "source")
    people = pd.read_csv(source / "patients.csv")
    people.loc[people["hospital"] == "DU", "has_pre"] = 0
    people.to_csv(source / "patients.csv", index=False)
    assert cohorts.main(["lgg", "--source", str(source), "--out", str(tmp_path / "o")]) == 4


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not DOWNLOAD.is_dir(), reason="no lgg_mri beside the repository")
def test_the_download_makes_five_sites_of_109_patients(cohorts, tmp_path):
    out = built(cohorts, DOWNLOAD, tmp_path / "out")
    sizes = {s: len(ids(out / s)) for s in SITES}
    assert sizes == {"du": 30, "du_anchor": 15, "ht": 34, "fg": 14, "cs": 16}
    study = load_study(out)
    counts = {}
    for site in SITES:
        cohort = open_cohort(load_settings(out / site / "polyclinic.yaml"), study)
        assert cohort.quarantine.counts == {}
        splits = ("train", "validation", "test")
        counts[site] = {m: sum(cohort.count(s, m) for s in splits) for m in cohort.modalities}
    assert counts == {
        "du": {"flair": 30, "post": 26, "pre": 29},
        "du_anchor": {"flair": 15, "post": 15, "pre": 15},
        "ht": {"flair": 34, "post": 30},
        "fg": {"flair": 14, "pre": 13},
        "cs": {"flair": 16},
    }
