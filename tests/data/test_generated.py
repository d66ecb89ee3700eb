"""The invented consortium of five kinds lies as files do in hospitals, and is broken as it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from polyclinic.data.cohort import cohort_of, read_records
from polyclinic.data.generated.agreement import study as agreed
from polyclinic.data.generated.film import film_pixels
from polyclinic.data.generated.five import BROKEN, EXTRACTOR, SLIDES, generate_five_kinds
from polyclinic.data.generated.histology import tissue
from polyclinic.data.generated.scan import scan_voxels
from polyclinic.settings import load_settings
from polyclinic.study import Study, load_study

REPOSITORY = Path(__file__).parents[2]
SITES = ("site-1", "site-2", "site-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("five")
    generate_five_kinds(place, patients=(24, 24, 30))
    return place


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    """The study without slides, whose features are not made yet."""
    whole = load_study(folder)
    modalities = {m: v for m, v in whole.modalities.items() if m != "wsi"}
    return whole.model_copy(update={"modalities": modalities})


@pytest.mark.parametrize("site", SITES)
def test_every_file_that_is_broken_on_purpose_is_set_aside_with_its_reason(
    folder: Path, study: Study, site: str
) -> None:
    records = read_records(load_settings(folder / site / "polyclinic.yaml"), study)
    counts = {r: n for r, n in records.report.counts.items() if r != "no_modality"}
    assert counts == BROKEN[site]


def test_all_five_kinds_lie_as_files_of_their_own_format(folder: Path) -> None:
    def suffixes(site: str, place: str) -> set[str]:
        return {"".join(p.suffixes) for p in (folder / site / place).rglob("*") if p.is_file()}

    assert suffixes("site-1", "cxr") == {".dcm", ".csv"}
    assert suffixes("site-3", "cxr") == {".dcm", ".png", ".csv"}
    assert suffixes("site-2", "mri") == {".nii.gz"}
    assert suffixes("site-2", SLIDES) == {".svs"}
    assert (folder / "site-1" / "vitals.csv").read_text().startswith("person_id,hour,")


def test_site_3_trains_a_batch_of_every_kind_with_gaps(folder: Path, study: Study) -> None:
    settings = load_settings(folder / "site-3" / "polyclinic.yaml")
    cohort = cohort_of(settings, read_records(settings, study), study)
    batch = next(iter(cohort.batches("train", 64, torch.Generator().manual_seed(0))))
    shapes = {m: tuple(x.shape[1:]) for m, x in batch.inputs.items()}
    assert shapes == {
        "cnv": (24,),
        "cxr": (1, 64, 64),
        "metadata": (3,),
        "mri": (2, 24, 24, 20),
        "vitals": (24, 3),
    }
    for m, there in batch.present.items():
        assert not there.all()
        assert there.any()
        assert not batch.inputs[m][~there].any()


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate_five_kinds(tmp_path / name, seed, (20, 20, 20))

    def content(name: str) -> dict[str, bytes]:
        kept = (".csv", ".png", ".svs", ".yaml")
        files = [p for p in (tmp_path / name).rglob("*") if p.suffix in kept]
        return {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files}

    assert content("a") == content("b")
    assert content("a")["site-3/cnv.csv"] != content("c")["site-3/cnv.csv"]


def test_the_jobs_study_is_the_generators() -> None:
    said = REPOSITORY / "jobs" / "fedmm_plus_five_kinds" / "app" / "config" / "study.json"
    assert json.loads(said.read_text()) == agreed(EXTRACTOR)


@pytest.mark.parametrize("few", [(20, 20), (20, 10, 20)])
def test_too_few_patients_or_sites_are_refused(tmp_path: Path, few: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="three sites of at least 20"):
        generate_five_kinds(tmp_path, 0, few)


def test_a_trait_shows_in_the_picture_it_belongs_to() -> None:
    draw = np.random.default_rng(0)
    low, high = film_pixels(-2.0, draw), film_pixels(2.0, draw)
    assert high[50:75, 15:35].mean() > low[50:75, 15:35].mean() + 0.1
    assert (tissue(2.0, draw)[..., 1] < 110).mean() > 2 * (tissue(-1.0, draw)[..., 1] < 110).mean()
    bright = [(scan_voxels(t, draw)["flair"] > 700).sum() for t in (-2.0, 3.0)]
    assert bright[1] > 5 * max(1, bright[0])
