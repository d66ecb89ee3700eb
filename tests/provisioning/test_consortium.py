"""The description is refused as a whole before any key is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from consortium import Consortium, load_consortium
from polyclinic.errors import SiteError

REPO = Path(__file__).resolve().parents[2]
Change = Callable[[dict[str, Any]], object]


def described(tmp_path: Path, change: Change) -> Path:
    content = yaml.safe_load((REPO / "provisioning" / "consortium.yaml").read_text())
    change(content)
    path = tmp_path / "consortium.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_repositorys_description_names_three_unlike_hospitals(description: Consortium) -> None:
    held = {h.name: h.modalities for h in description.hospitals}
    assert len(set(held.values())) == len(held) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["server"].update(scheme="tcp"), "one idle connection blocks tcp"),
        (lambda c: c["server"].update(scheme="http"), "scheme 'http' is not offered"),
        (lambda c: c.update(minimum_sites=4), "minimum_sites 4 exceeds the hospitals"),
        (lambda c: c["hospitals"][1].update(name="site-1"), "used more than once: site-1"),
        (lambda c: c["admins"][2].update(role="leader"), "'admins.2.role'"),
        (lambda c: c["hospitals"][0]["cohorts"]["demo"].update(wsi="slide"), "cohorts.demo.wsi"),
        (lambda c: c.update(shceme="grpc"), "got 'shceme'"),
        (lambda c: c["hospitals"][0].update(gpu=1), "did you mean 'gpus'"),
        (lambda c: c.pop("server"), "Expected 'server' in the description 'consortium.yaml'"),
        (lambda c: c.update(allow_classes=["*"]), "allow_classes"),
        (lambda c: c.update(admins=[c["admins"][3]]), "nobody may submit a job"),
    ],
)
def test_a_wrong_description_is_refused_with_the_field_named(
    tmp_path: Path, change: Change, words: str
) -> None:
    with pytest.raises(SiteError, match=words.replace("*", r"\*")):
        load_consortium(described(tmp_path, change))


def test_a_file_that_is_no_yaml_is_refused_with_its_name_and_the_place(tmp_path: Path) -> None:
    path = tmp_path / "consortium.yaml"
    path.write_text("name: demo\nserver: [")
    with pytest.raises(
        SiteError, match=r"'consortium\.yaml' as readable YAML, got a fault at line 2, column 10"
    ):
        load_consortium(path)
    with pytest.raises(
        SiteError, match=r"the description 'none\.yaml' as readable YAML, got no such file"
    ):
        load_consortium(tmp_path / "none.yaml")
