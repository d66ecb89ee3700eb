"""``polyclinic data`` as a person and a program see it."""

import json
from pathlib import Path

import pytest

from polyclinic.cli.main import run
from polyclinic.jobs import load_job


def asked(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict]:
    """Exit code and envelope of a command."""
    code = run([*argv, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_check_finds_study_and_settings_beside_the_site(consortium: Path, capsys) -> None:
    code, said = asked(capsys, "data", "check", str(consortium / "site-3"))
    assert (code, said["exit_code"], said["data"]["ok"]) == (0, 0, True)
    assert said["data"]["quarantine"] == {"bad_label": 2, "no_patient_id": 1, "ragged_row": 1}
    assert said["data"]["round_bytes"]["up"] > 0
    assert "S3-" not in json.dumps(said)


def test_a_failed_check_leaves_with_1(consortium: Path, tmp_path: Path, capsys) -> None:
    study = json.loads((consortium / "study.json").read_text())
    panels = json.loads((consortium / "panels.json").read_text())
    for name, fields in panels.items():
        study["modalities"][name] |= fields
    study["modalities"]["cnv"]["units"] = "GISTIC"
    (tmp_path / "study.json").write_text(json.dumps(study))
    argv = ["data", "check", str(consortium / "site-3"), "--study", str(tmp_path / "study.json")]
    code, said = asked(capsys, *argv)
    assert (code, said["status"], said["data"]["ok"]) == (1, "failed", False)
    (failure,) = [f for f in said["data"]["findings"] if f["level"] == "failed"]
    assert "'GISTIC'" in failure["message"]
    assert "'log2 ratio'" in failure["message"]


def test_a_jobs_round_is_measured_by_its_own_algorithm(consortium: Path, capsys) -> None:
    site, job = str(consortium / "site-1"), Path(__file__).parents[2] / "jobs" / "fedmm_demo"
    said = asked(capsys, "data", "check", site, "--study", str(job))[1]["data"]
    loaded = load_job(job)
    expected = loaded.server.contract(loaded.study).nbytes_for(("metadata", "wsi"))
    assert said["round_bytes"] == {"up": expected, "down": expected}


def test_bad_input_leaves_with_4(tmp_path: Path, capsys) -> None:
    code, said = asked(capsys, "data", "check", str(tmp_path))
    assert (code, said["code"]) == (4, "site")


def test_check_reads_well_for_a_person(consortium: Path, capsys) -> None:
    assert run(["data", "check", str(consortium / "site-2" / "polyclinic.yaml")]) == 0
    text = capsys.readouterr().out
    assert "A job would accept this cohort." in text
    assert "not_finite" in text


def test_describe_tells_shape_and_no_id(consortium: Path, capsys) -> None:
    code, said = asked(capsys, "data", "describe", str(consortium / "site-2"))
    assert code == 0
    assert set(said["data"]["patterns"]) == {"cnv+metadata+wsi", "cnv+metadata", "metadata+wsi"}
    assert "S2-" not in json.dumps(said)
    assert run(["data", "describe", str(consortium / "site-2")]) == 0
    assert "who carries what" in capsys.readouterr().out


def test_generate_writes_sites_that_check(tmp_path: Path, capsys) -> None:
    code, said = asked(capsys, "data", "generate", str(tmp_path / "out"), "--seed", "3")
    assert (code, said["data"]["sites"]) == (0, ["site-1", "site-2", "site-3"])
    assert asked(capsys, "data", "check", str(tmp_path / "out" / "site-1"))[0] == 0


def test_generate_does_not_write_over_anything(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").touch()
    assert asked(capsys, "data", "generate", str(tmp_path))[0] == 4
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("words", [["/proc/none/here"], ["new", "--seed", "-1"]], ids=str)
def test_a_consortium_that_cannot_be_written_is_bad_input(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, said = asked(capsys, "data", "generate", *words)
    assert (code, said["exit_code"]) == (4, 4)
    assert not list(tmp_path.iterdir())


def test_classes_and_columns_cannot_command_the_terminal(
    consortium: Path, tmp_path: Path, capsys
) -> None:
    study = json.loads((consortium / "study.json").read_text())
    panels = json.loads((consortium / "panels.json").read_text())
    panels["cnv"]["features"].append("\x1b]0;owned\x07[/nope]")
    (tmp_path / "study.json").write_text(json.dumps(study))
    (tmp_path / "panels.json").write_text(json.dumps(panels))
    argv = ["data", "check", str(consortium / "site-3"), "--study", str(tmp_path)]
    assert run(argv) == 0
    shown = capsys.readouterr().out
    assert "owned" in shown
    assert not {"\x1b", "\x07"} & set(shown)


def test_a_round_of_several_labels_is_measured_without_prototypes() -> None:
    from polyclinic.cli.data import round_size
    from polyclinic.study import parse_study

    vector = {"kind": "vector", "features": ["a"]}
    task = {"labels": {"pneumonia": {}, "view_ap": {}}}
    study = parse_study({"name": "toy", "task": task, "modalities": {"v": vector}})
    up, down = round_size(None)(study, ("v",))
    assert up == down > 0


def test_a_consortium_with_masks_is_generated_checked_and_described(tmp_path, capsys) -> None:
    out = str(tmp_path / "out")
    code, said = asked(capsys, "data", "generate", out, "--tumours")
    assert (code, len(said["data"]["sites"])) == (0, 4)
    assert said["data"]["broken"]["site-3"] == {"no_mask": 1}
    code, said = asked(capsys, "data", "check", f"{out}/site-3")
    assert code == 0
    assert said["data"]["round_bytes"]["up"] > 0
    assert run(["data", "describe", f"{out}/site-3"]) == 0
    shown = capsys.readouterr().out
    assert "masks" in shown
    assert "oedema" in shown


def test_two_kinds_of_consortium_in_one_folder_are_bad_input(tmp_path, capsys) -> None:
    words = ("data", "generate", str(tmp_path / "new"), "--tumours", "--five-kinds")
    assert asked(capsys, *words)[0] == 4
    assert not (tmp_path / "new").exists()
