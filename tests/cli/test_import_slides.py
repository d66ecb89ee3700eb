import json
from pathlib import Path

import pytest
import yaml

from polyclinic.cli.main import run
from polyclinic.settings import Source
from slides import glass, with_tissue, write_slide

OPTIONS = ("--weights", "random:0", "--mpp", "1.0", "--tile-px", "112")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """One slide and one file that is none."""
    folder = tmp_path / "scans"
    folder.mkdir()
    write_slide(folder / "SMITH.svs", with_tissue(glass(240, 240), 0, 0, 232, 235), 1.0)
    return folder


def told(capsys, scans: Path, *options: str) -> tuple[int, dict]:
    site = str(scans.parent / "site")
    command = ["data", "import", "slides", str(scans), site, *OPTIONS, *options]
    code = run([*command, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_an_import_tells_what_to_write_into_polyclinic_yaml(capsys, scans) -> None:
    code, answer = told(capsys, scans)
    assert code == 0
    data = answer["data"]
    assert (data["slides"], data["tiles"]) == ({"made": 1, "kept": 0, "refused": 0}, 4)
    (declared,) = yaml.safe_load(data["declaration"]).values()
    source = Source.model_validate(declared)
    assert (scans.parent / "site" / source.folder / "slides.csv").is_file()
    assert source.extractor == data["extractor"] == "resnet34-layer3-random0"
    assert data["study"]["recipe"] == {"mpp": 1.0, "tile_px": 112}


def test_a_slide_that_was_set_aside_is_a_failed_check_without_its_name(capsys, scans) -> None:
    (scans / "SMITH-2.svs").write_text("no slide")
    code, answer = told(capsys, scans)
    assert code == 1
    assert answer["data"]["refused"] == {"unsupported_slide": 1}
    assert "SMITH" not in json.dumps(answer)


def test_the_report_for_people_names_the_extractor(capsys, scans) -> None:
    site = str(scans.parent / "site")
    assert run(["data", "import", "slides", str(scans), site, *OPTIONS]) == 0
    out = capsys.readouterr().out
    assert "1 made, 0 kept" in out
    assert "features by resnet34-layer3-random0, tiles of 112 micrometres" in out


def test_a_line_that_polyclinic_yaml_has_is_not_asked_for_again(capsys, scans) -> None:
    site = scans.parent / "site"
    command = ["data", "import", "slides", str(scans), str(site), *OPTIONS]
    assert run(command) == 0
    printed = capsys.readouterr().out
    (line,) = [x for x in printed.splitlines() if x.startswith("in polyclinic.yaml: ")]
    modalities = yaml.safe_load(line.removeprefix("in polyclinic.yaml: "))
    said = {
        "site": "a",
        "storage": "state",
        "cohorts": {"c": {"root": ".", "modalities": modalities}},
    }
    for mpp, asked in ((0.25, True), (modalities["wsi"]["mpp"], False)):
        modalities["wsi"]["mpp"] = mpp
        (site / "polyclinic.yaml").write_text(yaml.safe_dump(said))
        assert run(command) == 0
        assert ("in polyclinic.yaml" in capsys.readouterr().out) == asked


def test_a_slide_without_resolution_is_helped_by_a_table(capsys, scans) -> None:
    write_slide(scans / "JONES.svs", with_tissue(glass(240, 240), 0, 0, 232, 235), None)
    site = str(scans.parent / "site")
    assert run(["data", "import", "slides", str(scans), site, *OPTIONS]) == 1
    assert "1 × no_mpp; state it with --mpp-csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        ("--layout", "clam"),
        ("--tile-px", "2"),
        ("--weights", "/nowhere/w.pth"),
        ("--device", "cuda:99"),
        ("--modality", "../wsi"),
        ("--mpp-csv", "/nowhere/mpp.csv"),
    ],
)
def test_wrong_options_are_bad_input(capsys, scans, wrong) -> None:
    code, answer = told(capsys, scans, *wrong)
    assert (code, answer["status"]) == (4, "error")
    assert answer["code"] != "fault"
