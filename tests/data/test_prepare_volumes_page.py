"""docs/prepare-volumes.md says what is so."""

import json
import re
from pathlib import Path

import torch
import yaml

from polyclinic import models
from polyclinic.data.grid import MAX_VOXELS, MIN_OVERLAP
from polyclinic.data.quarantine import REASONS
from polyclinic.data.volume_recipe import VolumeAugment, VolumeRecipe, recipe_of
from polyclinic.models.volume import LEAST_EDGE, VolumeSettings
from polyclinic.settings import LAYOUTS, SiteSettings, Source
from polyclinic.study import Modality

PAGE = (Path(__file__).parents[2] / "docs" / "prepare-volumes.md").read_text()


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
