"""BraTS as the sites of FedMEPD, on tiny folders of its layouts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import open_cohort
from polyclinic.settings import load_settings
from polyclinic.study import load_study
from volumes import affine, head, write

REPOSITORY = Path(__file__).parents[2]
SEQUENCES = ("flair", "t1ce", "t1", "t2")
# The order of the paper: FLAIR, T1ce, T1, T2.
PATTERNS = {
    "anchor": "1111",
    "c1": "1110",
    "c2": "1011",
    "c3": "1100",
    "c4": "0011",
    "c5": "0100",
    "c6": "0001",
    "c7": "1111",
    "c8": "1111",
}


@pytest.fixture
def brats(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "poc"))
    for name in ("cohorts", "brats", "scans"):
        sys.modules.pop(name, None)
    import brats

    return brats


@pytest.fixture
def main(brats):
    import cohorts

    return lambda *words: cohorts.main(["brats", *map(str, words)])


def plan_of(brats, year):
    text = (REPOSITORY / "poc" / "plans" / f"brats_brats{year}.json").read_text()
    return brats.ScanPlan.model_validate_json(text)


def patient(folder: Path, seed: int, suffix: str = ".nii.gz") -> None:
    """Four sequences and a mask 0, 1, 2, 4, as BraTS stores them: the first axis to the left."""
    placed = affine(1.0, (0, 0, 0)) @ np.diag([-1, -1, 1, 1])
    for i, s in enumerate(SEQUENCES):
        write(folder / f"{folder.name}_{s}{suffix}", head(seed + i), placed)
    mask = np.zeros((10, 12, 8), np.uint8)
    mask[2:6, 3:6, 2:5], mask[3, 4, 3], mask[4, 4, 3] = 2, 1, 4
    write(folder / f"{folder.name}_seg{suffix}", mask, placed)


@pytest.fixture
def download(tmp_path):
    """36 patients as in 2018: four of each site."""
    source = tmp_path / "MICCAI_BraTS_2018"
    for i in range(36):
        patient(source / ("HGG" if i % 3 else "LGG") / f"Brats18_TCIA_{i:03d}_1", 10 * i)
    return source


@pytest.mark.parametrize(("year", "total", "anchor"), [(2018, 285, 88), (2020, 369, 129)])
def test_the_published_numbers_of_patients_and_patterns(brats, year, total, anchor) -> None:
    plan = plan_of(brats, year)
    given = brats.shares(plan, total, partial=False)
    assert sum(given.values()) == total
    assert given["anchor"] == anchor
    assert given == {name: site.patients for name, site in plan.sites.items()}
    held = {
        name: "".join("01"[s in site.modalities] for s in SEQUENCES)
        for name, site in plan.sites.items()
    }
    assert held == PATTERNS


def test_another_number_of_patients_is_refused_or_scaled_when_asked(brats) -> None:
    from polyclinic.errors import DataError

    plan = plan_of(brats, 2018)
    with pytest.raises(DataError, match=r"285 patients, as published, got 36; .*--allow-partial"):
        brats.shares(plan, 36, partial=False)
    given = brats.shares(plan, 57, partial=True)  # a fifth
    assert sum(given.values()) == 57
    assert all(abs(n - plan.sites[s].patients / 5) < 1 for s, n in given.items())
    with pytest.raises(DataError, match="patients for 9 sites"):
        brats.shares(plan, 9, partial=True)


def test_every_patient_is_at_one_site_with_all_files(main, download, tmp_path) -> None:
    out = tmp_path / "out"
    assert main("--source", download, "--out", out, "--plan", "brats2018", "--allow-partial") == 0
    ids = {s: (out / s / "manifest.csv").read_text().split()[1:] for s in PATTERNS}
    everyone = sorted(p for mine in ids.values() for p in mine)
    assert everyone == sorted(p.name for p in download.glob("*/*"))
    for site, mine in ids.items():
        for p in mine:
            files = {f.name for f in (out / site / "scans" / p).iterdir()}
            assert files == {f"{p}_{w}.nii.gz" for w in (*SEQUENCES, "seg")}
    one = next((out / "c1" / "scans").glob("*/*_t1.nii.gz"))
    origin = next(download.glob(f"*/*/{one.name}"))
    assert one.samefile(origin)
    assert not one.is_symlink()


def test_sites_check_and_train_on_what_their_pattern_says(main, download, tmp_path) -> None:
    out = tmp_path / "out"
    assert main("--source", download, "--out", out, "--allow-partial") == 0
    study = load_study(out)
    assert study.task.mask.codes == (0, 1, 2, 4)
    for site in ("anchor", "c3", "c8"):
        settings = load_settings(out / site / "polyclinic.yaml")
        assert check_cohort(settings, study).ok
        cohort = open_cohort(settings, study)
        expected = [s for s, bit in zip(SEQUENCES, PATTERNS[site], strict=True) if bit == "1"]
        assert cohort.modalities == tuple(sorted(expected))
        assert settings.cohort(study.name).anchor == (site == "anchor")
    batch = next(cohort.batches("train", 1))
    assert batch.inputs["t1ce"].shape == (1, 1, 80, 80, 80)
    assert set(batch.labels.unique().tolist()) == {0, 1, 2, 3}


def test_the_same_seed_makes_the_same_sites_wherever_files_lie(main, download, tmp_path) -> None:
    for name in ("a", "b"):
        assert main("--source", download, "--out", tmp_path / name, "--allow-partial") == 0
    manifests = [
        {s: (tmp_path / n / s / "manifest.csv").read_text() for s in PATTERNS} for n in "ab"
    ]
    assert manifests[0] == manifests[1]


def test_files_of_2020_and_its_mask_of_another_name_are_found(brats, tmp_path) -> None:
    for i in (1, 355):
        patient(tmp_path / "Data" / f"BraTS20_Training_{i:03d}", i, ".nii")
    odd = tmp_path / "Data" / "BraTS20_Training_355"
    (odd / "BraTS20_Training_355_seg.nii").rename(odd / "W39_1998.09.19_Segm.nii")
    (tmp_path / "Data" / "name_mapping.csv").write_text("a,b\n")
    found = brats.patients_in(tmp_path, list(SEQUENCES))
    assert set(found) == {"BraTS20_Training_001", "BraTS20_Training_355"}
    assert found["BraTS20_Training_355"]["seg"].name == "W39_1998.09.19_Segm.nii"


def test_a_copy_is_made_where_a_link_cannot_be(brats, tmp_path, monkeypatch) -> None:
    def fails(*paths: object) -> None:
        raise OSError

    monkeypatch.setattr(brats.os, "link", fails)
    (tmp_path / "a").write_bytes(b"scan")
    (tmp_path / "b").write_bytes(b"what was there before")
    brats.place(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"scan"


@pytest.mark.parametrize("what", ["empty", "lacks", "twice"])
def test_a_download_that_is_not_whole_is_bad_input(main, tmp_path, capsys, what) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if what != "empty":
        patient(source / "HGG" / "p1", 0)
    if what == "lacks":
        (source / "HGG" / "p1" / "p1_t2.nii.gz").unlink()
    if what == "twice":
        patient(source / "LGG" / "p1", 0)
    assert main("--source", source, "--out", tmp_path / "out", "--allow-partial") == 4
    assert "BraTS" not in json.dumps(capsys.readouterr().err)
