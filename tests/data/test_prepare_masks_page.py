"""The section on masks of docs/prepare-volumes.md says what is so."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import open_cohort
from polyclinic.data.quarantine import REASONS
from polyclinic.data.scan_recipe import ScanAugment, ScanRecipe, recipe_of
from polyclinic.settings import LAYOUTS, CohortSource, SiteSettings
from polyclinic.study import Study, parse_study
from volumes import affine, head, write

PAGE = (Path(__file__).parents[2] / "docs" / "prepare-volumes.md").read_text()
SECTION = PAGE.split("## 4. Scans with masks")[1]
IDS = [f"p{i:02d}" for i in range(8)]
SHAPE = (10, 12, 8)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, flags=re.DOTALL)


def sources() -> list[CohortSource]:
    return [CohortSource.model_validate(yaml.safe_load(block)) for block in blocks("yaml")]


def study(**recipe: Any) -> Study:
    """The example of the page; ``recipe`` changes it."""
    (example,) = blocks("json")
    given = json.loads(example) | {"name": "marks", "split": {"test": 0.25}}
    given["scans"]["recipe"] |= recipe
    return parse_study(given)


def marks(codes: tuple[int, ...]) -> np.ndarray:
    mask = np.full(SHAPE, codes[0], np.uint8)
    mask[2:7, 3:9, 2:6] = codes[2]
    mask[4, 5, 3], mask[4, 6, 3] = codes[1], codes[3]
    return mask


def _named(root: Path, source: CohortSource, rows: list[str]) -> None:
    """Whatever a layout calls them: sequences, masks, and the rows of a table."""
    mask = source.mask
    assert mask is not None
    items = []
    for i, p in enumerate(IDS):
        images = {}
        for j, (m, one) in enumerate(sorted(source.modalities.items())):
            word = one.sequences.get(m, m)
            name = {
                "": f"{p}_{word}.nii.gz",
                "nnunet": f"imagesTr/{p}_{j:04d}.nii.gz",
                "bids": f"sub-{p}/anat/sub-{p}_{word}.nii.gz",
            }[one.layout]
            write(root / one.folder / name, head(10 * i + j, SHAPE))
            images[word] = name
            rows.append(f"{p},{name},{word}")
        name = {
            "": f"{p}_{mask.name}.nii.gz",
            "nnunet": f"labelsTr/{p}.nii.gz",
            "bids": f"sub-{p}/anat/sub-{p}_{mask.name}.nii.gz",
        }[mask.layout]
        write(root / mask.folder / name, marks(study().task.mask.codes), affine())
        rows.append(f"{p},{name},{mask.name}")
        items.append({"patient_id": p, "image": images, "label": name})
    words = [one.sequences.get(m, m) for m, one in sorted(source.modalities.items())]
    if mask.layout == "nnunet":
        described = {"channel_names": {str(j): w for j, w in enumerate(words)}}
        (root / mask.folder / "dataset.json").write_text(json.dumps(described))
    if mask.files.endswith(".json"):
        (root / mask.files).write_text(json.dumps({"training": items}))
    elif mask.files:
        (root / mask.files).write_text("\n".join(rows) + "\n")


def test_every_layout_has_an_example() -> None:
    found = [s.mask for s in sources() if s.mask is not None]
    assert {m.layout for m in found} == set(LAYOUTS["volume"]) - {"dicom"}
    assert {m.files for m in found} == {"", "scans.csv", "datalist.json"}


@pytest.mark.parametrize("source", sources(), ids=lambda s: f"{s.mask.folder}-{s.mask.files}")
def test_who_follows_an_example_gets_a_green_check(tmp_path: Path, source: CohortSource) -> None:
    _named(tmp_path, source, ["patient_id,file,sequence"])
    (tmp_path / "manifest.csv").write_text("\n".join(["patient_id", *IDS]) + "\n")
    settings = SiteSettings(
        site="hosp-a",
        storage=str(tmp_path / "state"),
        cohorts={"marks": source.model_copy(update={"root": str(tmp_path)})},
    )
    agreed = study(size=[8, 8, 8], spacing_mm=None)
    report = check_cohort(settings, agreed)
    assert [f for f in report.findings if f.level != "ok"] == []
    batch = next(open_cohort(settings, agreed).batches("train", 2, torch.Generator()))
    assert batch.inputs["flair"].shape == (2, 1, 8, 8, 8)
    assert all(there.all() for there in batch.present.values())


def test_the_study_example_is_valid_and_every_setting_is_told() -> None:
    recipe = recipe_of(study())
    assert recipe.size == (80, 80, 80)
    for name in set(ScanRecipe.model_fields) - {"orientation"} | set(ScanAugment.model_fields):
        assert f"`{name}`" in SECTION, name
    from polyclinic.models.scan.settings import parse_network

    assert parse_network(study().scans.network).width == 16


def test_every_reason_it_names_is_a_reason() -> None:
    named = set(re.findall(r"quarantined \(`([a-z_]+)`\)", SECTION))
    assert named == {"no_mask", "bad_mask"}
    assert named <= set(REASONS)
