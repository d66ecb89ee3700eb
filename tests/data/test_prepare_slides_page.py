"""docs/prepare-slides.md says what is so."""

import json
import re
from pathlib import Path

import numpy as np
import yaml
from typer.testing import CliRunner

from polyclinic.cli.main import build
from polyclinic.data.quarantine import REASONS
from polyclinic.importing.slides import SlideImport, import_slides
from polyclinic.models.patch_trunk import extractor
from polyclinic.settings import SiteSettings
from polyclinic.study import Modality
from slides import glass, with_tissue, write_slide

PAGE = (Path(__file__).parents[2] / "docs" / "prepare-slides.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(found)


def test_the_examples_are_valid_and_agree() -> None:
    source = SiteSettings.model_validate(yaml.safe_load(block("yaml"))).cohorts["lung"]
    modality = Modality.model_validate(json.loads(block("json")))
    wsi = source.modalities["wsi"]
    assert (wsi.extractor, wsi.mpp) == (modality.extractor, modality.recipe["mpp"])


def test_every_option_on_the_page_is_one_of_the_command() -> None:
    words = ["data", "import", "slides", "--help"]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(build(words), words).output
    for option in set(re.findall(r"--[a-z][a-z0-9-]+", PAGE)) - {"--study"}:
        assert option in shown, option


def test_the_reasons_on_the_page_exist() -> None:
    assert {"extractor_mismatch", "tile_mismatch"} <= set(REASONS)
    assert "`extractor_mismatch`" in PAGE
    assert "`tile_mismatch`" in PAGE


def test_the_example_of_a_heatmap_runs(tmp_path) -> None:
    scans, site = tmp_path / "scans", tmp_path / "site"
    scans.mkdir()
    image = with_tissue(glass(480, 480), 0, 0, 460, 460)
    path = write_slide(scans / "p1.svs", image)
    wanted = SlideImport(folder=scans, site=site, storage=site / "state", keep_names=True)
    report = import_slides(wanted, extractor("random:0"))
    scope: dict = {}
    exec(block("python"), scope)
    out = tmp_path / "heatmap.png"
    scope["picture"](path, report.store.file("p1"), np.arange(4.0), out)
    assert out.read_bytes().startswith(b"\x89PNG")
