"""The doctor passes a kit as it was made, and tells every fault with its remedy."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from spoiled import Kits, failures, settings

from consortium import Consortium
from polyclinic.cli.main import run
from polyclinic.errors import SiteError
from polyclinic.flare.doctor import examine
from polyclinic.flare.doctor.__main__ import main


@pytest.mark.parametrize("name", ["site-1", "coordinator", "lead@north.example"])
def test_a_kit_as_it_was_made_may_start(kit: Kits, name: str) -> None:
    report = examine(kit(name))
    assert [f for f in report.findings if f.status == "fail"] == []
    assert report.kit == name


def test_every_failure_says_what_mends_it_and_whose_job_that_is(kit: Kits) -> None:
    broken = kit("site-1")
    (broken / "local" / "privacy.json").unlink()
    (broken / "startup" / "client.key").chmod(0o644)
    settings(broken, minimum_sites=1, cohorts={})
    wrong = [f for f in examine(broken).findings if f.status == "fail"]
    assert {f.check for f in wrong} == {
        "signed-manifest",
        "closed-modes",
        "egress-filter",
        "quorum",
        "cohorts",
    }
    assert all(f.what and f.remedy and f.owner for f in wrong)


def test_a_folder_that_is_no_kit_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="a startup kit"):
        examine(tmp_path)
    assert main(str(tmp_path)) == 4
    assert run(["site", "doctor", str(tmp_path)]) == 4


def test_the_command_ends_with_1_and_prints_the_findings_as_json(
    kit: Kits, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = kit("site-1")
    assert run(["site", "doctor", str(broken), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["passed"] is True
    (broken / "local" / "privacy.json").unlink()
    assert run(["site", "doctor", str(broken), "--format", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 1
    failed = {f["check"] for f in answer["data"]["findings"] if f["status"] == "fail"}
    assert failed == {"signed-manifest", "egress-filter"}


def test_the_text_names_the_remedy(kit: Kits, capsys: pytest.CaptureFixture[str]) -> None:
    broken = kit("site-1")
    (broken / "startup" / "client.key").chmod(0o640)
    assert main(str(broken)) == 1
    assert "run chmod 600 on startup/client.key" in capsys.readouterr().err


def test_what_start_sh_warned_of_the_inner_script_does_not_say_again(
    kit: Kits, capsys: pytest.CaptureFixture[str]
) -> None:
    warned = kit("site-1")
    with tempfile.TemporaryDirectory() as storage:
        settings(warned, storage=storage)
        assert main(str(warned)) == 0
        assert "warning: storage-inside" in capsys.readouterr().err
        assert main(str(warned), "--no-warnings") == 0
        assert capsys.readouterr().err == ""
        settings(warned, storage=storage, minimum_sites=1)
        assert main(str(warned), "--no-warnings") == 1
        assert "refused: quorum" in capsys.readouterr().err
    start, inner = ((warned / "startup" / f"{n}.sh").read_text() for n in ("start", "sub_start"))
    assert "POLYCLINIC_WARNED=yes $DIR/sub_start.sh" in start
    assert '"$KIT_WORKSPACE" ${POLYCLINIC_WARNED:+--no-warnings} || exit 1' in inner


def test_a_kit_straight_from_flare_does_not_start(description: Consortium, tmp_path: Path) -> None:
    """What FLARE's template leaves open, the doctor names."""
    impl = "nvflare.lighter.impl"
    static = {"config_folder": "config", "scheme": "tcp"}
    project = description.project() | {
        "builders": [
            {"path": f"{impl}.workspace.WorkspaceBuilder"},
            {"path": f"{impl}.static_file.StaticFileBuilder", "args": static},
            {"path": f"{impl}.cert.CertBuilder"},
        ]
    }
    (tmp_path / "project.yml").write_text(yaml.safe_dump(project))
    nvflare = str(Path(sys.executable).parent / "nvflare")
    command = [nvflare, "provision", "-p", "project.yml", "-w", "out", "--force"]
    env = os.environ | {"HOME": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    kit = next((tmp_path / "out").rglob("prod_00")) / "site-1"
    found = failures(kit)
    assert {
        "grpc-with-mutual-tls",
        "signed-jobs-only",
        "nobody-brings-code",
        "allow-list",
        "job-guards",
        "egress-filter",
        "log-streaming-off",
        "start-script",
        "settings",
    } <= set(found)
