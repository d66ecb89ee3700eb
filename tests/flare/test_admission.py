"""What a job may be before it is stored or unpacked, and how few sites it may ask for."""

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace

from polyclinic.errors import SiteError
from polyclinic.flare.admission import (
    GuardedJobManager,
    JobArchiveRefused,
    KitStorage,
    SiteDeployer,
    check_archive,
    quorum_fault,
)


def zipped(fill: Callable[[zipfile.ZipFile], object]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app/config/config_fed_client.json", json.dumps({"format_version": 2}))
        fill(archive)
    return buffer.getvalue()


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("app/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def many(archive: zipfile.ZipFile) -> None:
    for i in range(1_000):
        archive.writestr(f"app/config/{i}.json", "")


A13 = {
    "parent": lambda z: z.writestr("../x.json", "{}"),
    "absolute": lambda z: z.writestr("/etc/x.json", "{}"),
    "link": link,
    "drive": lambda z: z.writestr("C:\\x.json", "{}"),
    "bomb": lambda z: z.writestr("app/zeros.json", b"0" * (32 << 20)),
    "many": many,
}


def test_a_job_of_ordinary_size_passes() -> None:
    check_archive(zipped(lambda z: z.writestr("app/config/study.json", "{}")))


@pytest.mark.parametrize("kind", A13)
def test_a13_no_hostile_archive_passes(kind: str) -> None:
    with pytest.raises(JobArchiveRefused):
        check_archive(zipped(A13[kind]))


@pytest.mark.parametrize("content", [b"", b"no zip at all"])
def test_what_is_no_archive_is_refused_as_one(content: bytes) -> None:
    with pytest.raises(JobArchiveRefused):
        check_archive(content)


@pytest.mark.parametrize(
    ("meta", "minimum", "passes"),
    [
        ({"min_clients": 3}, 3, True),
        ({"min_clients": 4}, 3, True),
        ({"min_clients": 2}, 3, False),
        ({"min_clients": "3"}, 3, False),
        ({"min_clients": True}, 1, False),
        ({"min_clients": None}, 1, False),
        ({}, 1, False),
    ],
)
def test_a03_a_job_says_how_many_sites_it_needs_and_not_too_few(
    meta: dict[str, Any], minimum: int, passes: bool
) -> None:
    assert (quorum_fault(meta, minimum) == "") is passes


def submitted(meta: dict[str, Any]) -> FLContext:
    context = FLContext()
    context.set_prop(FLContextKey.JOB_META, meta, private=True, sticky=False)
    return context


def test_the_server_tells_the_submitter_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = GuardedJobManager("storage/jobs", minimum_sites=3)
    few, enough = submitted({"min_clients": 2}), submitted({"min_clients": 3})
    manager.handle_event(EventType.SUBMIT_JOB, few)
    manager.handle_event(EventType.SUBMIT_JOB, enough)
    assert "no fewer than 3 sites" in few.get_prop(FLContextKey.JOB_BLOCK_REASON)
    assert enough.get_prop(FLContextKey.JOB_BLOCK_REASON) is None


def test_the_server_stores_no_hostile_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = GuardedJobManager("storage/jobs")
    with pytest.raises(JobArchiveRefused):
        manager.create({}, zipped(A13["bomb"]), FLContext())
    assert list((tmp_path / "storage" / "jobs").iterdir()) == []


@pytest.mark.parametrize("folder", ["/etc", "../elsewhere", "."])
def test_a_store_lies_inside_the_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in (KitStorage, GuardedJobManager):
        with pytest.raises(SiteError, match="inside the kit"):
            kind(folder)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def site(tmp_path: Path) -> Workspace:
    for folder in ("startup", "local"):
        (tmp_path / folder).mkdir()
    settings = "site: site-1\nminimum_sites: 3\nstorage: ../storage\n"
    (tmp_path / "local" / "polyclinic.yaml").write_text(settings)
    return Workspace(str(tmp_path), "site-1")


@pytest.mark.parametrize(
    ("meta", "kind", "words"),
    [
        ({"min_clients": 2}, "", "no fewer than 3 sites"),
        ({"min_clients": 3}, "bomb", "would unpack to"),
        ({"min_clients": 3}, "parent", "leads out of its folder"),
    ],
)
def test_a_hospital_refuses_before_it_writes_anything(
    site: Workspace, meta: dict[str, Any], kind: str, words: str
) -> None:
    data = zipped(A13.get(kind, lambda z: None))
    why = SiteDeployer().deploy(site, "a-job", meta, "app", data, SimpleNamespace())
    assert words in why
    assert not Path(site.get_run_dir("a-job")).exists()


def test_a_hospital_without_settings_deploys_nothing(site: Workspace) -> None:
    (Path(site.get_site_config_dir()) / "polyclinic.yaml").unlink()
    why = SiteDeployer().deploy(
        site, "a-job", {"min_clients": 9}, "app", zipped(lambda z: None), SimpleNamespace()
    )
    assert "polyclinic.yaml" in why
