"""What a job may be before it is stored or unpacked, and how few sites it may ask for."""

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace
from nvflare.fuel.utils.config_factory import ConfigFactory
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

from polyclinic.errors import SiteError
from polyclinic.flare.admission import (
    GuardedJobManager,
    JobArchiveRefused,
    JobConfigRefused,
    KitStorage,
    SiteDeployer,
    check_archive,
    quorum_fault,
)

META = {"name": "job", "min_clients": 3}
FILES = ("meta.json", "app/config/study.json", "app/config/panels.json")


def configs(client: Any = None, **rounds: Any) -> dict[str, Any]:
    """Both configs of a job; ``rounds`` are further arguments of the controller."""
    args = {"rounds": 1, "min_sites": 3, **rounds}
    flow = {"id": "rounds", "path": "polyclinic.flare.controller.Rounds", "args": args}
    executor = {"path": "polyclinic.flare.executor.SiteExecutor", "args": client or {}}
    return {
        "app/config/config_fed_server.json": {"format_version": 2, "workflows": [flow]},
        "app/config/config_fed_client.json": {"executors": [{"executor": executor}]},
    }


def zipped(
    fill: Callable[[zipfile.ZipFile], object], top: str = "job/", files: Any = None
) -> bytes:
    """A job's archive; without ``top`` of its app alone, as a hospital gets it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**{name: {} for name in FILES}, **(files or configs())}.items():
            if top or name != "meta.json":
                text = content if isinstance(content, str) else json.dumps(content)
                archive.writestr(top + name if top else name.removeprefix("app/"), text)
        fill(archive)
    return buffer.getvalue()


def nothing(_: zipfile.ZipFile) -> None:
    """Fill: no further entry."""


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

both_layouts = pytest.mark.parametrize("top", ["job/", ""], ids=["job", "app"])


def check(archive: bytes, top: str = "job/", minimum: int = 3) -> None:
    check_archive(archive, META, minimum, app=not top)


@both_layouts
def test_a_job_of_ordinary_size_passes(top: str) -> None:
    check(zipped(nothing, top), top)


@both_layouts
def test_a_job_that_was_signed_or_brings_code_is_left_to_flares_rights(top: str) -> None:
    def more(archive: zipfile.ZipFile) -> None:
        app = f"{top}app/" if top else ""
        for name in (".__nvfl_sig.json", "config/.__nvfl_submitter.crt", "custom/mine.py"):
            archive.writestr(app + name, "x")

    check(zipped(more, top), top)


@both_layouts
@pytest.mark.parametrize("kind", A13)
def test_a13_no_hostile_archive_passes(kind: str, top: str) -> None:
    with pytest.raises(JobArchiveRefused):
        check(zipped(A13[kind], top), top)


@pytest.mark.parametrize("content", [b"", b"no zip at all"])
def test_what_is_no_archive_is_refused_as_one(content: bytes) -> None:
    with pytest.raises(JobArchiveRefused):
        check(content)


@both_layouts
@pytest.mark.parametrize(
    "name",
    [
        "config/config_fed_client.conf",
        "config/config_fed_client.yml",
        "config/config_fed_server.json.default",
        "config/deep/config_fed_client.json",
        "config/custom/config_fed_client.conf",
        "config/./study.json",
        "config//study.json",
        "meta.conf",
        "other/config/config_fed_client.json",
    ],
)
def test_no_file_passes_that_flare_could_read_instead_of_what_was_checked(
    top: str, name: str
) -> None:
    place = f"{top}app/{name}" if top else name
    with pytest.raises(JobConfigRefused, match="a file no job of ours has"):
        check(zipped(lambda z: z.writestr(place, "x = 1"), top), top)


def test_a_second_description_of_the_job_is_refused() -> None:
    for name in ("job/app/meta.json", "meta.json", "job/app/config/meta.json"):
        with pytest.raises(JobConfigRefused, match="2 files meta"):
            check(zipped(lambda z, name=name: z.writestr(name, "{}")))
    with pytest.raises(JobConfigRefused, match="a file no job of ours has"):
        check(zipped(lambda z: z.writestr("job/meta.conf", "name = ${HOME}")))


@both_layouts
@pytest.mark.parametrize("file", configs())
def test_no_config_passes_in_which_flare_would_replace_a_text(top: str, file: str) -> None:
    for text in ("{$PASSWORD}", "{SITE_NAME}", "${secret:db}", "$PASSWORD"):
        files = configs()
        files[file]["deep"] = [{"text": text}]
        with pytest.raises(JobConfigRefused, match="FLARE would replace") as caught:
            check(zipped(nothing, top, files), top)
        assert text not in str(caught.value)


@both_layouts
@pytest.mark.parametrize("file", configs())
@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "{", "include file(x)", "[" * 100_000, "[]"])
def test_a_config_that_is_no_plain_json_object_is_refused(top: str, file: str, text: str) -> None:
    with pytest.raises(JobConfigRefused):
        check(zipped(nothing, top, configs() | {file: text}), top)


@both_layouts
@pytest.mark.parametrize("file", configs())
def test_a_job_without_one_of_its_configs_is_refused(top: str, file: str) -> None:
    files = configs()
    del files[file]
    with pytest.raises(JobConfigRefused, match="missing"):
        check(zipped(nothing, top, files), top)


@pytest.mark.parametrize("file", configs())
def test_of_this_package_a_job_names_the_controller_the_executor_and_algorithms(file: str) -> None:
    files = configs({"client": {"path": "polyclinic.algorithms.fedmm.Client"}})
    files[file]["components"] = [{"id": "x", "path": "agreed.on.by.the.Consortium"}]
    check(zipped(nothing, files=files))
    files[file]["components"] = [{"id": "x", "path": "polyclinic.flare.admission.KitStorage"}]
    with pytest.raises(JobConfigRefused, match="no part of a job"):
        check(zipped(nothing, files=files))


@both_layouts
@pytest.mark.parametrize(
    ("asked", "minimum", "passes"),
    [
        (3, 3, True),
        (3, 2, True),
        (2, 2, True),
        (2, 3, False),
        (1, 1, False),
        (4, 3, False),  # META starts with three
        ("3", 3, False),
        (True, 1, False),
    ],
)
def test_a_round_averages_no_fewer_sites_than_may_train_together(
    top: str, asked: Any, minimum: int, passes: bool
) -> None:
    archive = zipped(nothing, top, configs(min_sites=asked))
    if passes:
        check(archive, top, minimum)
    else:
        with pytest.raises(JobConfigRefused, match="min_sites"):
            check(archive, top, minimum)


@pytest.fixture
def formats() -> Iterator[None]:
    kept = dict(ConfigFactory._fmt2Loader)
    yield
    ConfigFactory._fmt2Loader.update(kept)


@pytest.mark.usefixtures("formats")
@pytest.mark.parametrize("suffix", ["conf", "yml", "yaml"])
def test_a_server_reads_no_format_that_can_open_files_or_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "rosebud"}')
    text = f'include file("{secret}")\nname = ${{password}}\nmin_clients = 3'

    def hostile(archive: zipfile.ZipFile) -> None:
        archive.writestr(f"job/meta.{suffix}", text)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        hostile(archive)
    GuardedJobManager("storage/jobs")
    valid, why, meta = JobMetaValidator().validate("job", buffer.getvalue())
    assert (valid, meta) == (False, {})
    assert "no other format is read" in why
    assert "rosebud" not in why


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
    with pytest.raises(JobConfigRefused):
        manager.create(META, zipped(lambda z: z.writestr("job/meta.conf", "")), FLContext())
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
        ({"min_clients": 3}, "hocon", "a file no job of ours has"),
    ],
)
def test_a_hospital_refuses_before_it_writes_anything(
    site: Workspace, meta: dict[str, Any], kind: str, words: str
) -> None:
    hocon = {"hocon": lambda z: z.writestr("config/config_fed_client.conf", "x = ${HOME}")}
    data = zipped((A13 | hocon).get(kind, nothing), top="")
    why = SiteDeployer().deploy(site, "a-job", meta, "app", data, SimpleNamespace())
    assert words in why
    assert not Path(site.get_run_dir("a-job")).exists()


def test_a_hospital_without_settings_deploys_nothing(site: Workspace) -> None:
    (Path(site.get_site_config_dir()) / "polyclinic.yaml").unlink()
    why = SiteDeployer().deploy(
        site, "a-job", {"min_clients": 9}, "app", zipped(nothing, top=""), SimpleNamespace()
    )
    assert "polyclinic.yaml" in why


def test_a_hospital_compares_its_minimum_with_what_a_round_may_average(site: Workspace) -> None:
    data = zipped(nothing, top="", files=configs(min_sites=2))
    why = SiteDeployer().deploy(site, "a-job", META, "app", data, SimpleNamespace())
    assert "min_sites below 3" in why
    assert not Path(site.get_run_dir("a-job")).exists()
