"""docs/prepare-volumes.md says what is so."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from polyclinic import models
from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import open_cohort
from polyclinic.data.grid import MAX_VOXELS, MIN_OVERLAP
from polyclinic.data.quarantine import REASONS
from polyclinic.data.volume_recipe import VolumeAugment, VolumeRecipe, recipe_of
from polyclinic.models.volume import LEAST_EDGE, VolumeSettings
from polyclinic.settings import LAYOUTS, CohortSource, SiteSettings, Source
from polyclinic.study import Modality, parse_study
from series import slices, write_series
from volumes import affine, head, write

WHOLE = (Path(__file__).parents[2] / "docs" / "prepare-volumes.md").read_text()
# The section on masks has a test file of its own.
PAGE = WHOLE.split("## 4. Scans with masks")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def sources() -> list[Source]:
    """Every example of a source, as a site's settings would have it."""
    found = []
    for block in blocks("yaml"):
        cohort = {"modalities": yaml.safe_load(block)}
        site = SiteSettings.model_validate({"site": "hosp-a", "cohorts": {"ms": cohort}})
        found.append(site.cohort("ms").modalities["mri"])
    return found


def test_the_yaml_examples_are_valid_and_show_every_layout() -> None:
    found = sources()
    assert {s.layout for s in found} == set(LAYOUTS["volume"])
    assert {s.files for s in found} == {"", "scans.csv", "datalist.json"}
    assert all(s.kind == "volume" for s in found)


def test_the_study_example_is_valid_and_has_an_encoder() -> None:
    (example,) = blocks("json")
    modality = Modality.model_validate(json.loads(example))
    assert recipe_of("mri", modality).size == (80, 96, 80)
    named = {name for s in sources() for name in s.sequences}
    assert named <= set(modality.features)
    with torch.device("meta"):
        models.build("mri", modality, 64)


def test_every_setting_network_and_limit_is_told() -> None:
    settings = set(VolumeRecipe.model_fields) - {"orientation"}
    for name in (*settings, *VolumeAugment.model_fields):
        assert f"`{name}`" in PAGE, name
    networks = VolumeSettings.model_fields["network"].annotation.__args__
    assert all(f"| `{n}` |" in PAGE for n in networks)
    assert set(LEAST_EDGE.values()) == {32}
    assert "edges of 32" in PAGE
    assert f"{4 * MAX_VOXELS >> 20} MiB" in PAGE
    assert MIN_OVERLAP == 0.25


def test_every_reason_it_names_is_a_reason() -> None:
    named = set(re.findall(r"quarantined \(`?([a-z_`, ]+)\)", PAGE))
    codes = {code.strip("` ") for group in named for code in group.split(",")}
    assert codes
    assert codes <= set(REASONS)


IDS = [f"p{i:02d}" for i in range(8)]
PANEL = ("t1", "t1ce", "t2", "flair")


def _by_names(root: Path, source: Source) -> None:
    for i, p in enumerate(IDS):
        for j, word in enumerate(_words(source)):
            write(root / source.folder / f"{p}_{word}.nii.gz", head(4 * i + j))


def _by_table(root: Path, source: Source) -> None:
    lines = ["patient_id,file,sequence"]
    for i, p in enumerate(IDS):
        for j, word in enumerate(_words(source)):
            write(root / source.folder / f"{4 * i + j}.nii.gz", head(4 * i + j))
            lines.append(f"{p},{4 * i + j}.nii.gz,{word}")
    (root / source.files).write_text("\n".join(lines) + "\n")


def _by_datalist(root: Path, source: Source) -> None:
    items = []
    for i, p in enumerate(IDS):
        images = {w: f"{p}/{w}.nii.gz" for w in _words(source)}
        for j, name in enumerate(images.values()):
            write(root / source.folder / name, head(4 * i + j))
        items.append({"patient_id": p, "image": images})
    (root / source.files).write_text(json.dumps({"training": items}))


def _by_nnunet(root: Path, source: Source) -> None:
    folder = root / source.folder
    for i, p in enumerate(IDS):
        for j in range(len(PANEL)):
            write(folder / "imagesTr" / f"{p}_000{j}.nii.gz", head(4 * i + j))
    channels = {str(j): word for j, word in enumerate(_words(source))}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": channels}))


def _by_bids(root: Path, source: Source) -> None:
    for i, p in enumerate(IDS):
        for j, word in enumerate(_words(source)):
            place = root / source.folder / f"sub-{p}" / "anat" / f"sub-{p}_{word}.nii.gz"
            write(place, head(4 * i + j))


def _by_dicom(root: Path, source: Source) -> None:
    for i, p in enumerate(IDS):
        for j, word in enumerate(_words(source)):
            cut = slices(head(4 * i + j, (10, 12, 4)), affine(), description=word)
            write_series(root / source.folder / p / f"series{j}", cut)


def _words(source: Source) -> list[str]:
    return [source.sequences.get(s, s) for s in PANEL]


WRITERS = {
    ("", ""): _by_names,
    ("", "scans.csv"): _by_table,
    ("", "datalist.json"): _by_datalist,
    ("nnunet", ""): _by_nnunet,
    ("bids", ""): _by_bids,
    ("dicom", ""): _by_dicom,
}


@pytest.mark.parametrize("source", sources(), ids=lambda s: s.layout or s.files or "names")
def test_who_follows_an_example_gets_a_green_check(tmp_path: Path, source: Source) -> None:
    WRITERS[source.layout, source.files](tmp_path, source)
    rows = [f"{p},{'no' if i % 2 else 'yes'}" for i, p in enumerate(IDS)]
    (tmp_path / "manifest.csv").write_text("\n".join(["patient_id,outcome", *rows]) + "\n")
    settings = SiteSettings(
        site="hosp-a",
        storage=str(tmp_path / "state"),
        cohorts={"ms": CohortSource(root=str(tmp_path), modalities={"mri": source})},
    )
    (example,) = blocks("json")
    mri = json.loads(example) | {"recipe": {"size": [16, 16, 16], "spacing_mm": [2, 2, 2]}}
    study = parse_study(
        {
            "name": "ms",
            "task": {"label": "outcome", "classes": ["no", "yes"]},
            "modalities": {"mri": mri},
            "split": {"test": 0.25},
        }
    )
    report = check_cohort(settings, study)
    assert [f for f in report.findings if f.level != "ok"] == []
    batch = next(open_cohort(settings, study).batches("train", 6))
    assert batch.fields["mri"].all()
    assert batch.inputs["mri"].shape == (6, 4, 16, 16, 16)
