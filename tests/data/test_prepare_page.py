"""docs/prepare-your-data.md says what is so."""

import re
from pathlib import Path

import yaml

from polyclinic.data.slide import DATASET
from polyclinic.settings import SiteSettings

PAGE = (Path(__file__).parents[2] / "docs" / "prepare-your-data.md").read_text()


def test_the_example_of_polyclinic_yaml_is_valid() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    settings = SiteSettings.model_validate(yaml.safe_load(example))
    assert settings.cohort("tcga_brca").held == ("cnv", "wsi")
    assert settings.max_loss_fraction == SiteSettings(site="x").max_loss_fraction


def test_the_page_names_every_layout_with_its_dataset() -> None:
    for layout, dataset in DATASET.items():
        assert re.search(rf"\| `{layout}` \|.*\| `{dataset}` ", PAGE)
