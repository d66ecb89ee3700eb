"""docs/prepare-images.md says what is so."""

import json
import re
from pathlib import Path

import torch
import yaml

from polyclinic import models
from polyclinic.data.cache import RESERVE
from polyclinic.data.dicom import MAX_FILE_BYTES, MAX_INFLATED_BYTES
from polyclinic.data.files import FILM_SUFFIXES
from polyclinic.data.framing import Augment, ImageRecipe
from polyclinic.data.image import recipe_of
from polyclinic.data.pixels import MAX_PIXELS
from polyclinic.importing.plan import ImportPlan
from polyclinic.models.image import ImageSettings
from polyclinic.settings import SiteSettings
from polyclinic.study import Modality

PAGE = (Path(__file__).parents[2] / "docs" / "prepare-images.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_yaml_examples_are_valid() -> None:
    plan, settings, weights = (yaml.safe_load(block) for block in blocks("yaml"))
    assert ImportPlan.model_validate(plan).modalities["cxr"].kind == "image"
    site = SiteSettings.model_validate(settings)
    assert site.cohort("chest").modalities["cxr"].burned_in == "refuse"
    (name,) = SiteSettings.model_validate(settings | weights).weights
    assert f'"weights": "{name}"' in PAGE


def test_the_study_example_is_valid_and_has_an_encoder() -> None:
    (example,) = blocks("json")
    modality = Modality.model_validate(json.loads(example))
    assert recipe_of("cxr", modality).size == (224, 224)
    with torch.device("meta"):
        models.build("cxr", modality, 64)


def test_every_setting_network_and_suffix_is_told() -> None:
    for name in (*ImageRecipe.model_fields, *Augment.model_fields):
        assert f"`{name}`" in PAGE, name
    networks = ImageSettings.model_fields["network"].annotation.__args__
    assert all(f"| `{n}` |" in PAGE for n in networks)
    assert all(f"`{s}`" in PAGE for s in FILM_SUFFIXES - {""})


def test_the_limits_are_those_of_the_code() -> None:
    assert f"{MAX_PIXELS // 1_000_000} million pixels" in PAGE
    assert f"{MAX_FILE_BYTES >> 20} MiB" in PAGE
    assert f"{MAX_INFLATED_BYTES >> 20} MiB" in PAGE
    assert RESERVE == 1 << 30
