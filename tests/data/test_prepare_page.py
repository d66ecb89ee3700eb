"""docs/prepare-your-data.md says what is so."""

import json
import re
from pathlib import Path

import yaml

from polyclinic.data.manifest import read_manifest
from polyclinic.data.slide import DATASET
from polyclinic.settings import SiteSettings
from polyclinic.study import parse_study

PAGE = (Path(__file__).parents[2] / "docs" / "prepare-your-data.md").read_text()


def examples(kind: str) -> list[SiteSettings]:
    """Every example of ``polyclinic.yaml`` on the page, in order."""
    found = re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)
    return [SiteSettings.model_validate(yaml.safe_load(text)) for text in found]


def test_the_example_of_several_films_and_labels_is_read_as_the_page_says(tmp_path: Path) -> None:
    (task,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    (rows,) = re.findall(r"```csv\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "manifest.csv").write_text(rows)
    source = examples("yaml")[1].cohort("cxr_nih_hannover")
    vector = {"kind": "vector", "features": ["age"]}
    study = {"name": "x", "task": json.loads(task), "modalities": {"metadata": vector}}
    found = read_manifest(source.model_copy(update={"root": str(tmp_path)}), parse_study(study))
    assert [(p.pseudonym, p.key, p.label) for p in found.patients] == [
        ("p1", "f1", (1, 0)),
        ("p1", "f2", (-1, 1)),
        ("p2", "f3", (0, 0)),
    ]
    assert not found.entries


def test_the_example_of_polyclinic_yaml_is_valid() -> None:
    settings = examples("yaml")[0]
    assert settings.cohort("tcga_brca").held == ("cnv", "wsi")
    assert settings.max_loss_fraction == SiteSettings(site="x").max_loss_fraction


def test_the_page_names_every_layout_with_its_dataset() -> None:
    for layout, dataset in DATASET.items():
        assert re.search(rf"\| `{layout}` \|.*\| `{dataset}` ", PAGE)
