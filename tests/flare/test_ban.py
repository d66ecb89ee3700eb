"""What a hospital does not build for a job, seen through FLARE's own configurator."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.fuel.common.excepts import ComponentNotAuthorized
from nvflare.private.fed.client.client_json_config import ClientJsonConfigurator
from nvflare.private.fed.utils.fed_utils import authorize_build_component

import polyclinic.algorithms
from flare.kit import CLIENT, JOB, Kit
from polyclinic.flare.ban import DefinedHere, JobFilterBan

FILTER = {
    "tasks": ["train"],
    "filters": [{"path": "polyclinic.flare.egress.EgressFilter", "args": {}}],
}


def config(client: str = CLIENT, **more: Any) -> dict[str, Any]:
    """A client's job config; ``client`` is the path of the nested client half."""
    args = {"client": {"path": client, "args": {}}}
    executor = {"path": "polyclinic.flare.executor.SiteExecutor", "args": args}
    return {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": executor}],
        **more,
    }


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = str(Path(__file__).with_name("plugins"))
    path = [*polyclinic.algorithms.__path__, plugins]
    monkeypatch.setattr(polyclinic.algorithms, "__path__", path)


def build(kit: Kit, job: dict[str, Any], handlers: list[Any]) -> ClientJsonConfigurator:
    """What FLARE's job process does with a job's client config."""
    root = kit.root / JOB / f"app_{kit.site}"
    (root / "config" / "config_fed_client.json").write_text(json.dumps(job))
    allowed = {"class_allow_list": ["polyclinic.flare.", "polyclinic.algorithms."]}
    (kit.root / "local" / "resources.json").write_text(json.dumps(allowed))
    (kit.root / JOB / "meta.json").write_text("{}")
    fl_ctx = kit.context()
    workspace = fl_ctx.get_engine().get_workspace()
    fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, workspace)
    args = Namespace(
        sp_scheme="grpc",
        sp_target="localhost:1",
        client_name=kit.site,
        job_id=JOB,
        workspace=str(kit.root),
    )
    conf = ClientJsonConfigurator(
        workspace_obj=workspace,
        config_file_name=str(root / "config" / "config_fed_client.json"),
        args=args,
        app_root=str(root),
        kv_list=["secure_train=True"],
    )
    conf.set_component_build_authorizer(
        authorize_build_component, fl_ctx=fl_ctx, event_handlers=handlers
    )
    conf.configure()
    return conf


def test_our_jobs_are_built(tmp_path: Path) -> None:
    conf = build(Kit(tmp_path), config(), [JobFilterBan()])
    assert [type(e.executor).__name__ for e in conf.executors] == ["SiteExecutor"]


@pytest.mark.parametrize("chain", ["task_result_filters", "task_data_filters"])
def test_a_job_that_brings_a_filter_is_refused(tmp_path: Path, chain: str) -> None:
    job = config(**{chain: [FILTER]})
    with pytest.raises(ComponentNotAuthorized, match="no filters"):
        build(Kit(tmp_path / "a"), job, [JobFilterBan()])
    # FLARE alone builds it: the ban is what refuses.
    conf = build(Kit(tmp_path / "b"), job, [])
    assert conf.result_filter_table or conf.data_filter_table


def test_empty_lists_of_filters_are_no_filters(tmp_path: Path) -> None:
    build(Kit(tmp_path), config(task_result_filters=[]), [JobFilterBan()])


REEXPORTS = {
    "function": "polyclinic.flare.site.load_settings",
    "class": "polyclinic.flare.child.Connection",
    "path": "polyclinic.flare.site.Path",
    "nested": "polyclinic.algorithms.arithmetic.State",
}


@pytest.mark.parametrize("path", REEXPORTS.values(), ids=REEXPORTS.keys())
@pytest.mark.parametrize("guard", [JobFilterBan, DefinedHere])
def test_what_an_allowed_module_merely_imports_is_not_built(
    tmp_path: Path, guard: Any, path: str
) -> None:
    with pytest.raises(ComponentNotAuthorized, match="where it is defined"):
        build(Kit(tmp_path), config(client=path), [guard()])


def test_flares_own_list_lets_such_a_path_through(tmp_path: Path) -> None:
    component = {"id": "x", "path": "polyclinic.flare.site.Path", "args": {}}
    conf = build(Kit(tmp_path / "a"), config(components=[component]), [])
    assert isinstance(conf.components["x"], Path)
    with pytest.raises(ComponentNotAuthorized, match="where it is defined"):
        build(Kit(tmp_path / "b"), config(components=[component]), [JobFilterBan()])


def test_a_class_outside_the_list_is_flares_to_refuse(tmp_path: Path) -> None:
    with pytest.raises(ComponentNotAuthorized, match="allow_list"):
        build(Kit(tmp_path), config(client="subprocess.Popen"), [JobFilterBan()])


def test_the_server_may_have_filters(tmp_path: Path) -> None:
    build(Kit(tmp_path), config(task_result_filters=[FILTER]), [DefinedHere()])
