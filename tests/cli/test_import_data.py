"""``polyclinic data import`` as a data manager sees it: from a folder of files to a green check."""

import csv
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from canary_film import film, pixels, written
from polyclinic.cli.main import run
from polyclinic.importing.plan import ImportPlan

IDS = [f"KANARI-{n}" for n in range(8)]
PLAN: dict[str, Any] = {
    "site": "hosp-a",
    "cohort": "tiny",
    "labels": {"table": "KANARI.csv", "id": "PATNR", "columns": {"outcome": "DIAG"}},
    "modalities": {
        "film": {"kind": "image", "files": "**/*.dcm", "patient": {"dicom": "PatientID"}},
        "header": {"kind": "vector", "headers_of": "film"},
        "scan": {
            "kind": "volume",
            "files": "*.nii.gz",
            "of": "nifti",
            "patient": {"name": r"^(.*)_T1\."},
            "sequences": {"t1": "T1"},
        },
        "labs": {"kind": "vector", "table": "KANARI.csv", "id": "PATNR", "columns": {"hb": "HB"}},
        "ward": {
            "kind": "series",
            "table": "hours.csv",
            "id": "PATNR",
            "columns": {"pulse": "PULSE"},
            "hours": {"at": "TIME"},
        },
    },
}
STUDY = {
    "name": "tiny",
    "task": {"label": "outcome", "classes": ["well", "ill"]},
    "modalities": {
        "film": {"kind": "image"},
        "header": {
            "kind": "vector",
            "features": ["years", "woman"],
            "fields": {
                "years": {"reads": "age", "column": "PatientAge"},
                "woman": {
                    "reads": "category", "column": "PatientSex", "category": "F",
                    "among": ["F", "M"],
                },
            },
        },
        "scan": {"kind": "volume", "features": ["t1"]},
        "labs": {"kind": "vector", "features": ["hb"]},
        "ward": {"kind": "series", "features": ["pulse"]},
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export, with import.yaml and study.json beside it."""
    root = tmp_path / "export"
    root.mkdir()
    rng = np.random.default_rng(3)
    rows, hours = [("PATNR", "DIAG", "HB")], [("PATNR", "TIME", "PULSE")]
    for n, patient in enumerate(IDS):
        made = film(
            PatientID=patient, PatientName=f"{patient}^J", PatientAge=f"0{n + 40}Y",
            PatientSex="FM"[n % 2], SOPInstanceUID=f"1.2.{n}", SeriesDescription=patient,
            PixelData=(pixels() + np.uint16(n)).tobytes(),
        )  # fmt: skip
        (root / f"{patient}.dcm").write_bytes(written(made))
        voxels = rng.integers(0, 900, (6, 6, 6)).astype("<i2")
        image = nib.Nifti1Image(voxels, np.eye(4))
        image.header["descrip"] = patient
        (root / f"{patient}_T1.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
        rows.append((patient, "ill" if n % 2 else "well", f"1{n}.5"))
        hours += [(patient, f"2020-01-0{n + 1}T0{h}:30", str(60 + h + n)) for h in range(3)]
    for name, cells in (("KANARI.csv", rows), ("hours.csv", hours)):
        with (root / name).open("w", newline="") as stream:
            csv.writer(stream).writerows(cells)
    (tmp_path / "import.yaml").write_text(yaml.safe_dump(PLAN))
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    return root


def argv(folder: Path, *more: str) -> list[str]:
    """The command line."""
    out, plan = str(folder.parent / "site"), str(folder.parent / "import.yaml")
    return ["data", "import", str(folder), out, "--plan", plan, *more]


def test_b09_from_files_to_a_green_check_without_a_canary_anywhere(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    out, study = folder.parent / "site", str(folder.parent / "study.json")
    assert run(argv(folder, "--format", "json")) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["data"]["patients"] == 8
    assert said["data"]["files"]["scan"] == {
        "taken": 8, "new": 8, "refused": {}, "passed_over": 0, "gone": 0
    }  # fmt: skip
    assert run(["data", "check", str(out), "--study", study, "--format", "json"]) == 0
    checked = json.loads(capfd.readouterr().out)
    assert checked["data"]["ok"]
    assert checked["data"]["quarantine"] == {}
    empty = [f for f in checked["data"]["findings"] if "empty" in f["message"]]
    assert empty == []  # age and sex came through from the headers
    # The check has decoded everything into the cache, which is searched, too.
    assert list((out / "state" / "cache").rglob("*.npy"))
    everything = [p for p in out.rglob("*") if p.is_file()]
    inflate = (gzip.decompress(p.read_bytes()) for p in everything if p.suffix == ".gz")
    texts = [*(p.read_bytes() for p in everything), *inflate]
    assert not any(b"KANARI" in t or "KANARI".encode("utf-16-le") in t for t in texts)
    assert not any("KANARI" in str(p.relative_to(out)) for p in everything)
    assert "KANARI" not in json.dumps([said, checked])
    assert "KANARI" not in caplog.text
    hours = (out / "tables" / "ward.csv").read_text().splitlines()
    assert hours[0] == "patient_id,pulse,hour"
    assert {line.rpartition(",")[2] for line in hours[1:]} == {"0", "1", "2"}


def test_it_reads_well_for_a_person(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more.dcm").write_bytes(written(film(BurnedInAnnotation="YES")))
    assert run(argv(folder)) == 1
    captured = capsys.readouterr()
    assert "burned_in" in captured.out
    assert "Not all went as planned." in captured.out
    assert f"polyclinic data check {folder.parent / 'site'}" in captured.out
    assert "KANARI" not in captured.out + captured.err


def test_a_table_that_does_not_join_is_told_with_exit_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = (folder / "hours.csv").read_text()
    (folder / "hours.csv").write_text(hours.replace("KANARI-", "kanari/"))
    assert run(argv(folder)) == 1
    told = capsys.readouterr().out
    assert "labs: 8 of 8 patients of the labels.\n" in told
    assert "ward: 0 of 8 patients of the labels; no id of it is one of the labels'." in told


def test_a_second_run_says_that_nothing_is_new(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv(folder, "--format", "json")) == 0
    capsys.readouterr()
    assert run(argv(folder, "--format", "json")) == 0
    files = json.loads(capsys.readouterr().out)["data"]["files"]
    assert {name: f["new"] for name, f in files.items()} == {"film": 0, "scan": 0}
    assert {name: f["taken"] for name, f in files.items()} == {"film": 8, "scan": 8}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"modalities": {"film": {"kind": "image", "files": "*"}}}, "imported from files and"),
        ({"modalities": {"x": {"kind": "image", "files": "../*", "patient": {"folder": 1}}}}, "in"),
        ({"labels": {"table": "KANARI.csv", "id": "NO", "columns": {"y": "DIAG"}}}, "no_patient"),
        ({"labels": {"table": "KANARI.csv", "id": "PATNR", "columns": {"y": "NO"}}}, "1 of 2 abs"),
        ({"colour": "red"}, "known fields only"),
    ],
)
def test_a_wrong_plan_leaves_with_4_and_names_no_value(
    folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], told: str
) -> None:
    (folder.parent / "import.yaml").write_text(yaml.safe_dump({**PLAN, **change}))
    assert run(argv(folder, "--format", "json")) == 4
    said = json.loads(capsys.readouterr().out)
    assert told in said["message"]
    assert "KANARI" not in json.dumps(said)


def test_parts_of_the_command_are_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "import", str(folder)]) == 4
    assert "--plan" in capsys.readouterr().err
    assert run(["data", "import", str(folder / "none"), "x", "--plan", "y"]) == 4
    assert run(["data", "import", "--help"]) == 0


def test_a_draft_counts_what_lies_there_and_shows_no_name_or_value(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(pixels().astype(np.uint8)).save(folder / "KANARI.png")
    made = film(Modality="MR", PatientID="KANARI", SeriesDescription="KANARI")
    (folder / "KANARI-mr.dcm").write_bytes(written(made))
    (folder / "KANARI-cut.dcm").write_bytes(written(film())[:300])
    assert run(["data", "import", str(folder), "--draft"]) == 0
    text = capsys.readouterr().out
    assert "KANARI" not in text
    assert "1 damaged dicom, 10 dicom, 8 nifti, 1 png, 2 table" in text
    plan = ImportPlan.model_validate(yaml.safe_load(text))
    assert set(plan.modalities) == {"film", "film_png", "scan", "scan_nifti", "labs"}


def test_a_draft_of_a_folder_with_nothing_to_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "KANARI.bin").write_bytes(b"x")
    assert run(["data", "import", "--draft", str(tmp_path)]) == 4
    told = capsys.readouterr().err
    assert "1 other" in told
    assert "KANARI" not in told


def test_slides_are_a_command_and_a_folder_of_that_name_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["data", "import", "slides", "--help"]) == 0
    assert "--weights" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.csv").write_text("id\n1\n")
    assert run(["data", "import", "./slides", "--draft"]) == 0
    assert "1 table" in capsys.readouterr().out
