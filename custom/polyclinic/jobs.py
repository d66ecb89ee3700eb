"""A job folder as the science code sees it: a study and the two halves of an algorithm. No FLARE.

Job JSON is data that another party wrote: a dotted path is resolved only to a class defined under
``polyclinic.algorithms``, and arguments are bound to its signature before anything is built.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, cast

from polyclinic.algorithms.base import AnchorClient, Client, Server, wants_anchor
from polyclinic.errors import PolyclinicError, StudyError
from polyclinic.study import Study, load_study, read_json

ALGORITHMS = "polyclinic.algorithms."
CONTROLLER = "polyclinic.flare.controller.Rounds"
EXECUTOR = "polyclinic.flare.executor.SiteExecutor"


@dataclass(frozen=True)
class Job:
    """What a job says.

    Attributes:
        rounds_args: arguments of the controller besides the server half.
        site_args: arguments of the executor besides the client half.
    """

    name: str
    study: Study
    client: Client
    server: Server
    rounds: int
    rounds_args: dict[str, Any]
    site_args: dict[str, Any]


def load_job(folder: Path) -> Job:
    """The job in ``folder`` (the one with ``meta.json``), built and checked.

    Raises:
        StudyError: naming every problem that was found.
    """
    config = folder / "app" / "config"
    problems: list[str] = []
    rounds_args = _component(config / "config_fed_server.json", "workflows", CONTROLLER, problems)
    site_args = _component(config / "config_fed_client.json", "executors", EXECUTOR, problems)
    server = _half(rounds_args.pop("server", None), Server, "server", problems)
    client = _half(site_args.pop("client", None), Client, "client", problems)
    rounds: Any = rounds_args.get("rounds")
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 0:
        problems.append(f"'rounds' of {CONTROLLER} is not a number of 0 or more")
    study: Study | None = None
    try:
        study = load_study(config)
        if isinstance(server, Server) and isinstance(client, Client):
            _agree(server, client, study, problems)
            _anchored(server, client, rounds_args, _tasks(config), problems)
            _judged(client, study, problems)
    except PolyclinicError as error:
        problems.append(str(error))
    if problems or study is None:
        raise StudyError(
            expected=f"a job '{folder.name}' whose parts fit together",
            got=f"{len(problems)} problem(s): " + "; ".join(problems),
            remedy="correct the job's JSON",
        )
    halves = cast(Client, client), cast(Server, server)
    return Job(folder.name, study, *halves, int(rounds), rounds_args, site_args)


def load_client(config: Path) -> Client:
    """The client half that ``config_fed_client.json`` in a job's configuration names.

    Raises:
        StudyError: it cannot be read, or names none.
    """
    problems: list[str] = []
    args = _component(config / "config_fed_client.json", "executors", EXECUTOR, problems)
    client = _half(args.get("client"), Client, "client", problems)
    if problems:
        raise _wrong("the client half of a job", "; ".join(problems))
    return cast(Client, client)


def build_half(spec: object) -> object:
    """An instance from ``{"path": ..., "args": {...}}`` with a path under the algorithms.

    Only a dataclass defined in the module its path names is built: a path must not reach what such
    a module merely imports. A site says these errors to the server, so none repeats a text of the
    job: FLARE may have put something of the site's into it.

    Raises:
        StudyError: another path, unknown arguments, or values the class refuses.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("path"), str):
        raise _wrong('{"path": ..., "args": {...}}', type(spec).__name__)
    path, args = spec["path"], spec.get("args") or {}
    kind = _class_at(path)
    if not isinstance(args, Mapping):
        raise _wrong(f"an object as 'args' of {path}", type(args).__name__)
    known = inspect.signature(kind).parameters
    unknown = set(args) - set(known)
    if unknown:
        raise _wrong(f"arguments of {path} among {', '.join(known)}", f"{len(unknown)} other(s)")
    try:
        inspect.signature(kind).bind(**args)
    except TypeError as error:
        raise _wrong(f"arguments that {path} takes", str(error)) from None
    try:
        built: object = kind(**args)
    except (TypeError, ValueError) as error:
        raise _wrong(f"values that {path} takes", f"others ({type(error).__name__})") from None
    return built


def _class_at(path: str) -> type:
    """The class a dotted path names."""
    module_name, _, class_name = path.rpartition(".")
    kind = None
    if path.startswith(ALGORITHMS) and not class_name.startswith("_"):
        try:
            kind = getattr(importlib.import_module(module_name), class_name, None)
        except ImportError:
            kind = None
    if not inspect.isclass(kind) or kind.__module__ != module_name or not is_dataclass(kind):
        raise _wrong(f"the path of a class defined under {ALGORITHMS[:-1]}", "another path")
    return kind


def _component(path: Path, section: str, wanted: str, problems: list[str]) -> dict[str, Any]:
    """Arguments of the one component ``wanted`` in a section of a config file."""
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        problems.append(f"{path.name}: {type(error).__name__}")
        return {}
    entries = config.get(section, []) if isinstance(config, dict) else []
    for entry in entries if isinstance(entries, list) else []:
        # An executor sits one level below the tasks it answers.
        part = entry.get("executor", entry) if isinstance(entry, dict) else {}
        if part.get("path") == wanted:
            return dict(part.get("args") or {})
    problems.append(f"{path.name}: no component {wanted} under '{section}'")
    return {}


def _half(spec: object, protocol: type, name: str, problems: list[str]) -> object:
    """One half of the algorithm, or None with a problem noted."""
    try:
        half = build_half(spec)
    except PolyclinicError as error:
        problems.append(f"{name}: {error}")
        return None
    if not isinstance(half, protocol):
        problems.append(f"{name}: not the {name} half of an algorithm")
        return None
    return half


def _agree(server: Server, client: Client, study: Study, problems: list[str]) -> None:
    """Note settings that both halves have and on which they differ, and unequal contracts."""
    ours, theirs = _settings(server), _settings(client)
    differing = sorted(k for k in ours.keys() & theirs.keys() if ours[k] != theirs[k])
    if differing:
        problems.append(f"server and client differ in {', '.join(differing)}")
    elif server.contract(study) != client.contract(study):
        problems.append("server and client exchange different tensors")


def _tasks(config: Path) -> frozenset[str]:
    """Tasks that the job's executors answer; a config that cannot be read is told elsewhere."""
    try:
        said = read_json(config / "config_fed_client.json")
    except (OSError, ValueError):
        return frozenset()
    entries = said.get("executors", []) if isinstance(said, dict) else []
    listed = [e.get("tasks", []) for e in entries if isinstance(e, dict)]
    return frozenset(str(t) for tasks in listed if isinstance(tasks, list) for t in tasks)


def _anchored(
    server: Server,
    client: Client,
    rounds: dict[str, Any],
    tasks: frozenset[str],
    problems: list[str],
) -> None:
    """Note a step between rounds that nobody would do, or that nobody wants."""
    own = rounds.get("anchor_client")
    if (rounds.get("anchor", "site") == "server") != (own is not None):
        problems.append("'anchor': 'server' and 'anchor_client' come together")
    elif not wants_anchor(server):
        problems += ["'anchor_client' for a server half without an anchor step"] * bool(own)
    elif not isinstance(client, AnchorClient):
        problems.append("the server half wants an anchor step, the client half has none")
    elif own is not None:
        half = _half(own, Client, "anchor_client", problems)
        if type(half) is not type(client) or _settings(half) != _settings(client):
            problems.append("'anchor_client' is not the client half of the sites")
    elif not tasks & {"anchor", "*"}:
        problems.append("no executor for the task 'anchor', which the server half wants")


def _judged(client: Client, study: Study, problems: list[str]) -> None:
    """Note settings that look at validation patients where the study draws none: they would do
    nothing, at every site."""
    if study.split.source == "manifest" or study.split.validation:
        return
    said = _settings(client)
    idle = ["select_epoch"] * bool(said.get("select_epoch"))
    if said.get("balance", "none") != "none" and said.get("balance_on") == "validation":
        idle.append("balance")
    if idle:
        problems.append(f"{', '.join(idle)} without 'validation' in the study's split does nothing")


def _settings(half: object) -> dict[str, Any]:
    parameters = inspect.signature(type(half)).parameters
    return {name: getattr(half, name) for name in parameters}


def _wrong(expected: str, got: str) -> StudyError:
    return StudyError(expected=expected, got=got, remedy="correct the job's JSON")
