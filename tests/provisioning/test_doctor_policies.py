"""A loosened policy is found; A07: a bad authorization policy keeps a site from starting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spoiled import Kits, Spoil, edit, failures

from polyclinic.flare import policy

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
    path.write_text(path.read_text().replace('"minimum_sites": 2', '"minimum_sites": 1'))
    assert "minimum_sites" in failures(broken)["job-guards"]


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
