"""Each fault of a kit is found, keeps it from starting, and comes with what mends it."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyclinic.cli.main import run
from polyclinic.errors import SiteError
from polyclinic.flare import policy
from polyclinic.flare.doctor import examine
from polyclinic.flare.doctor.__main__ import main

Kits = Callable[[str], Path]
Spoil = Callable[[Path], object]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def settings(kit: Path, **changes: object) -> None:
    path = kit / "local" / "polyclinic.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def failures(kit: Path, now: datetime | None = None) -> dict[str, str]:
    """Sentence by check, for the checks that failed; the manifest left aside."""
    found = examine(kit, now).findings
    return {
        f.check: f.sentence() for f in found if f.status == "fail" and f.check != "signed-manifest"
    }


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


LOCAL, STARTUP = "local", "startup"
RESOURCES: tuple[tuple[str, str, Callable[[dict[str, Any]], object], str], ...] = (
    ("allow-list", "resources.json", lambda c: c["class_allow_list"].append("os."), "'os.'"),
    ("allow-list", "resources.json", lambda c: c.pop("class_allow_list"), "no class_allow_list"),
    (
        "allow-list",
        "resources.json",
        lambda c: c.update(class_list_enforcement_mode="warn"),
        "not enforced",
    ),
    (
        "log-streaming-off",
        "resources.json",
        lambda c: c.update(allow_log_streaming=True),
        "may be streamed",
    ),
    (
        "storage-inside",
        "resources.json",
        lambda c: c.update(root_dir="/tmp/nvflare/jobs"),
        "shared temporary folder",
    ),
    (
        "egress-filter",
        "privacy.json",
        lambda c: c["scopes"][0].update(task_result_filters=[]),
        "does not end in the egress filter",
    ),
    (
        "egress-filter",
        "privacy.json",
        lambda c: c["scopes"][0]["task_result_filters"][0].update(args={"allow": ["("]}),
        "pattern",
    ),
    (
        "egress-filter",
        "privacy.json",
        lambda c: c.update(default_scope="polyclinic"),
        "default scope",
    ),
    ("egress-filter", "privacy.json", lambda c: c.update(scopes=[]), "no scope 'polyclinic'"),
)


@pytest.mark.parametrize(("check", "name", "change", "words"), RESOURCES)
def test_a_loosened_policy_is_found(
    kit: Kits, check: str, name: str, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    broken = kit("site-2")
    edit(broken / "local" / name, change)
    found = failures(broken)
    assert set(found) == {check}
    assert words in found[check]


@pytest.mark.parametrize(
    ("check", "name", "change", "words"),
    [
        ("signed-jobs-only", "fed_client.json", {"require_signed_jobs": False}, "unsigned jobs"),
        ("job-guards", policy.JOB_RESOURCES, {"components": []}, "JobFilterBan"),
        ("job-guards", policy.PARENT_RESOURCES, {"components": []}, "SiteDeployer"),
        ("versions", policy.KIT_FACTS, {"polyclinic": "9.9"}, "made for polyclinic 9.9"),
        ("named-as-the-kit", policy.KIT_FACTS, {"name": "site-1"}, "names 'site-1'"),
    ],
)
def test_a_changed_startup_file_is_found(
    kit: Kits, check: str, name: str, change: dict[str, Any], words: str
) -> None:
    broken = kit("site-2")
    edit(broken / "startup" / name, lambda c: c.update(change))
    found = failures(broken)
    assert set(found) == {check}
    assert words in found[check]


def test_tcp_is_refused_with_the_reason(kit: Kits) -> None:
    broken = kit("site-2")
    edit(
        broken / "startup" / "fed_client.json",
        lambda c: c["servers"][0]["service"].update(scheme="tcp"),
    )
    assert "one idle connection blocks every site" in failures(broken)["grpc-with-mutual-tls"]


def test_a_server_that_accepts_fewer_sites_than_agreed_is_found(kit: Kits) -> None:
    broken = kit("coordinator")
    path = broken / "local" / "resources.json"
    path.write_text(path.read_text().replace('"minimum_sites": 3', '"minimum_sites": 1'))
    assert "minimum_sites" in failures(broken)["job-guards"]


# -- A07 ---------------------------------------------------------------------------------------


def spell(old: str, new: str) -> Spoil:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(Path.unlink, id="none"),
        pytest.param(spell('{\n  "format', '{{\n  "format'), id="bad JSON"),
        pytest.param(lambda p: p.write_text(p.read_text(), encoding="utf-8-sig"), id="BOM"),
        pytest.param(spell('"byoc"', '"byco"'), id="typo in a right"),
        pytest.param(spell('"lead"', '"leed"'), id="typo in a role"),
        pytest.param(spell('"none"', '"nobody"'), id="typo in a condition"),
        pytest.param(lambda p: p.write_text(""), id="empty"),
        pytest.param(lambda p: p.write_text("{}"), id="empty policy"),
        pytest.param(spell('"byoc": "none"', '"byoc": "any"'), id="code for everyone"),
        pytest.param(spell('"byoc": "none"', '"byoc": "o:site"'), id="code for one's own"),
        pytest.param(
            spell('"shell_commands": "none"', '"shell_commands": "n:submitter"'), id="a shell"
        ),
    ],
)
def test_a07_a_bad_authorization_policy_keeps_the_site_from_starting(
    kit: Kits, spoil: Spoil
) -> None:
    broken = kit("site-1")
    spoil(broken / "local" / "authorization.json")
    assert "nobody-brings-code" in failures(broken)


def test_a07_the_policy_also_works_under_flares_default_name(kit: Kits) -> None:
    moved = kit("site-1")
    path = moved / "local" / "authorization.json"
    path.rename(path.with_name("authorization.json.default"))
    assert failures(moved) == {}


# -- certificates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (300, "ok", "in order"),
        (331, "warn", "expires in 28 days"),
        (355, "warn", "within a week"),
        (361, "fail", "expired 1 day(s) ago"),
        (-1, "fail", "not valid yet"),
    ],
)
def test_expiry_is_told_before_it_happens(kit: Kits, days: int, status: str, words: str) -> None:
    # A minute's grace: the certificate was made some seconds ago.
    then = datetime.now(UTC) + timedelta(days=days, minutes=1)
    told = [f for f in examine(kit("site-1"), then).findings if f.check == "in-date"]
    assert told[0].status == status
    assert words in told[0].sentence()


def test_another_sites_certificate_is_found(kit: Kits) -> None:
    broken, other = kit("site-1"), kit("site-2")
    for name in ("client.crt", "client.key"):
        shutil.copy(other / "startup" / name, broken / "startup" / name)
    assert set(failures(broken)) == {"named-as-the-kit"}


def test_another_sites_key_is_found(kit: Kits) -> None:
    broken, other = kit("site-1"), kit("site-2")
    shutil.copy(other / "startup" / "client.key", broken / "startup" / "client.key")
    assert set(failures(broken)) == {"key-belongs"}


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_missing_or_broken_key_is_found(kit: Kits, content: str | None) -> None:
    broken = kit("site-1")
    key = broken / "startup" / "client.key"
    key.unlink() if content is None else key.write_text(content)
    assert set(failures(broken)) == {"key-belongs"}


def test_a_certificate_of_another_consortium_is_found(
    kit: Kits, tmp_path: Path, description: Any
) -> None:
    from kits import make_kits

    stranger = make_kits(description, tmp_path / "other") / "site-1" / "startup"
    broken = kit("site-1")
    for name in ("client.crt", "client.key"):
        shutil.copy(stranger / name, broken / "startup" / name)
    assert set(failures(broken)) == {"issued-by-the-consortium"}


# -- this machine ------------------------------------------------------------------------------


def test_a_shared_storage_is_refused_and_a_private_temporary_one_is_warned_of(
    kit: Kits, tmp_path: Path
) -> None:
    broken = kit("coordinator")
    settings(broken, storage="/tmp/polyclinic-that-is-not-there")
    assert "others can enter" in failures(broken)["storage-inside"]


def test_an_open_folder_is_found(kit: Kits) -> None:
    broken = kit("site-1")
    (broken / "local").chmod(0o777)
    assert "can be written by others" in failures(broken)["closed-modes"]


def test_the_root_key_beside_a_kit_must_be_shut_away(made: Path) -> None:
    state = made.parent / "state" / "cert.json"
    state.chmod(0o644)
    try:
        assert "cert.json can be read by others" in failures(made / "coordinator")["closed-modes"]
    finally:
        state.chmod(0o600)


def test_a_start_script_without_gate_or_secure_logging_is_found(kit: Kits) -> None:
    broken = kit("site-1")
    script = broken / "startup" / "sub_start.sh"
    lines = [line for line in script.read_text().splitlines() if "SECURE_LOGGING" not in line]
    script.write_text("\n".join(lines))
    assert "secure logging" in failures(broken)["start-script"]


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"site": "site-2"}, "settings"),
        ({"minimum_cell": 0}, "settings"),
        ({"cohorts": {}}, "cohorts"),
        ({"minimum_sites": 2}, "quorum"),
    ],
)
def test_wrong_settings_of_a_hospital_are_found(
    kit: Kits, changes: dict[str, Any], check: str
) -> None:
    broken = kit("site-1")
    settings(broken, **changes)
    assert check in failures(broken)


def test_data_that_are_not_there_are_the_data_managers_to_mend(kit: Kits, tmp_path: Path) -> None:
    broken = kit("site-1")
    (tmp_path / "cohort" / "manifest.csv").unlink()
    assert "manifest of cohort 'demo'" in failures(broken)["cohorts"]
    (tmp_path / "cohort").rmdir()
    assert failures(broken)["cohorts"].endswith("(data manager).")


# -- commands ----------------------------------------------------------------------------------


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
