"""The invented consortium with masks: four unlike hospitals, broken as it says."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import Cohort, open_cohort
from polyclinic.data.generated.tumour import CORE, OEDEMA, Scanner, brain_with_tumour
from polyclinic.data.generated.tumours import BROKEN, HELD, generate_tumour_consortium
from polyclinic.settings import load_settings
from polyclinic.study import load_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tumours")
    generate_tumour_consortium(place)
    return place


@pytest.fixture(scope="module")
def cohorts(folder: Path) -> Mapping[str, Cohort]:
    study, start = load_study(folder), time.monotonic()
    found = {s: open_cohort(load_settings(folder / s / "polyclinic.yaml"), study) for s in HELD}
    assert time.monotonic() - start < 60  # 6 s on an idle machine
    return found


@pytest.mark.parametrize("site", HELD)
def test_what_is_broken_on_purpose_is_set_aside_and_the_check_is_green(
    folder: Path, cohorts: Mapping[str, Cohort], site: str
) -> None:
    assert cohorts[site].quarantine.counts == BROKEN[site]
    settings = load_settings(folder / site / "polyclinic.yaml")
    assert check_cohort(settings, load_study(folder)).ok
    assert settings.cohort("tumours").anchor == (site == "site-1")


@pytest.mark.parametrize("site", HELD)
def test_every_site_may_tell_its_scores_on_each_sequence(
    cohorts: Mapping[str, Cohort], site: str
) -> None:
    cohort = cohorts[site]
    assert cohort.modalities == tuple(sorted(HELD[site]))
    for split in ("train", "validation", "test"):
        for modality in cohort.modalities:
            assert cohort.distinct(split, modality) >= cohort.minimum_cell == 11


def test_the_anchor_has_everything_and_others_lack_some(cohorts: Mapping[str, Cohort]) -> None:
    whole = cohorts["site-1"]
    assert all(whole.count("train", m) == whole.size("train") for m in whole.modalities)
    other = cohorts["site-2"]
    assert any(other.count("train", m) < other.size("train") for m in other.modalities)


def test_slices_are_trained_on_and_whole_brains_scored(cohorts: Mapping[str, Cohort]) -> None:
    cohort = cohorts["site-4"]
    batch = next(cohort.batches("train", 4, torch.Generator().manual_seed(0)))
    assert batch.inputs["t1ce"].shape == (16, 1, 24, 24, 1)
    assert batch.labels.max() == 2
    whole = next(cohort.batches("test", 4))
    assert whole.inputs["t1"].shape == (1, 1, 24, 24, 16)
    assert set(whole.labels.unique().tolist()) == {0, 1, 2}


def test_flair_shows_oedema_best_and_contrast_the_core() -> None:
    rng = np.random.default_rng(0)
    contrast: dict[tuple[str, int], list[float]] = {}
    for _ in range(8):
        scans, classes = brain_with_tumour(Scanner.draw(rng), rng)
        for name, voxels in scans.items():
            healthy = voxels[(classes == 0) & (voxels > 0)]
            for part in (OEDEMA, CORE):
                apart = voxels[classes == part].mean() - healthy.mean()
                contrast.setdefault((name, part), []).append(abs(apart) / healthy.std())
    means = {key: np.mean(found) for key, found in contrast.items()}
    assert means["flair", OEDEMA] > 2 * max(means["t1", OEDEMA], means["t1ce", OEDEMA])
    assert means["t1ce", CORE] > 1.3 * max(means["t1", CORE], means["flair", CORE])


def test_scanners_of_sites_differ(cohorts: Mapping[str, Cohort], folder: Path) -> None:
    import nibabel as nib

    def brightness(path: Path) -> float:
        voxels = np.asarray(nib.load(path).dataobj)
        return float(np.median(voxels[voxels > 0]))

    one = brightness(folder / "site-1" / "mri" / "S1-0000" / "S1-0000_flair.nii.gz")
    other = brightness(folder / "site-3" / "mri" / "S3-0000" / "S3-0000_flair.nii.gz")
    assert max(one, other) / min(one, other) > 1.1


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate_tumour_consortium(tmp_path / name, seed, (20, 20, 20, 20))
    import nibabel as nib

    def voxels(name: str) -> np.ndarray:
        path = (
            tmp_path / name / "site-2" / "Dataset001_Tumours" / "imagesTr" / "S2-0003_0001.nii.gz"
        )
        return np.asarray(nib.load(path).dataobj)

    np.testing.assert_array_equal(voxels("a"), voxels("b"))
    assert not np.array_equal(voxels("a"), voxels("c"))
    texts = [(tmp_path / n / "study.json").read_text() for n in "ab"]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["name"] == "tumours"


def test_four_sites_of_at_least_twenty_are_asked_for(tmp_path: Path) -> None:
    for patients in ((44, 44, 44), (19, 44, 44, 44)):
        with pytest.raises(ValueError, match="four sites of at least 20"):
            generate_tumour_consortium(tmp_path, 0, patients)
