"""docs/import-your-data.md says what is so."""

import re
from pathlib import Path

import yaml

from polyclinic.importing.actions import ACTIONS
from polyclinic.importing.plan import Finder, ImportPlan
from polyclinic.importing.pseudonym import KEY_NAME

PAGE = (Path(__file__).parents[2] / "docs" / "import-your-data.md").read_text()


def test_the_example_plan_is_valid() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    plan = ImportPlan.model_validate(yaml.safe_load(example))
    assert set(plan.modalities) == {"film", "metadata", "mri", "labs", "vitals"}
    first = ImportPlan.model_fields
    assert plan.max_loss_fraction == first["max_loss_fraction"].default
    assert plan.storage == first["storage"].default


def test_every_way_to_find_a_patient_is_valid() -> None:
    rules = re.findall(r"^\| in .*?\| `(\{.*?\})`", PAGE, flags=re.MULTILINE)
    assert len(rules) == 4
    for rule in rules:
        Finder.model_validate(yaml.safe_load(rule.replace("...", "x")))


def test_names_on_the_page_are_the_codes() -> None:
    assert f"`<storage>/{KEY_NAME}`" in PAGE
    assert "`polyclinic/importing/actions.py`" in PAGE
    assert {"PatientSex", "PatientAge"} <= set(ACTIONS)
    for option in ("twins", "link_table", "storage", "max_loss_fraction"):
        assert option in ImportPlan.model_fields
        assert option in PAGE
