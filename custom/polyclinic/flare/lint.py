"""What a job may be: JSON and nothing else, for every site the same, and small.

``check_job`` reads a folder, ``check_archive`` a zip file of one before anything is unpacked. Both
return every fault at once and never run what they read. Of a class only the signature is looked at;
an algorithm's half is built, to hear what its arguments are worth, once nothing else is wrong.

Guarantees (tests/flare/test_lint.py has one test per line):
    * no code, link, absolute path, site name, filter or pickle switch passes;
    * no text passes that FLARE would replace by what the machine knows;
    * a job that needs or averages fewer than two sites does not pass;
    * nothing is built but the dataclasses of algorithms, where they are defined;
    * an archive that would unpack beyond the limits, or outside its folder, is not unpacked.
"""

import importlib
import inspect
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from polyclinic.errors import PolyclinicError
from polyclinic.flare.archive import (
    ALGORITHMS,
    CLIENT,
    FEWEST_SITES,
    MAX_BYTES,
    MAX_FILES,
    META,
    OPTIONAL,
    PATH,
    REQUIRED,
    SERVER,
    SIGNATURES,
    SOCKETS,
    Fault,
    archive_faults,
    config_faults,
    rounds_faults,
    specs,
    strict_json,
    walk,
)
from polyclinic.flare.policy import SCOPE
from polyclinic.jobs import load_job
from polyclinic.study import load_study

META_KEYS = frozenset(
    {"name", "min_clients", "deploy_map", "resource_spec", "scope", "mandatory_clients"}
)
_HALVES = {SERVER: (".args.server", ".args.anchor_client"), CLIENT: (".args.client",)}
_SITE = re.compile(r"^(site|hosp(ital)?)[-_ ]?\w{1,2}$", re.IGNORECASE)
_FILTERS = ("task_data_filters", "task_result_filters")


def check_job(folder: Path) -> list[Fault]:
    """Every fault of a job folder; empty for a job that may be submitted."""
    faults = list(_files(folder))
    if faults:  # nothing is parsed from a folder that is not a job's
        return faults
    parsed: dict[str, Any] = {}
    for name in (*REQUIRED[:3], *(n for n in (*REQUIRED[3:], *OPTIONAL) if (folder / n).exists())):
        try:
            parsed[name] = strict_json((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            faults.append(Fault(name, f"not plain JSON: {error}", "mend the file"))
    if faults:
        return faults
    faults += _meta(parsed[META], folder.name)
    for name in (SERVER, CLIENT):
        faults += _config(name, parsed[name])
    if isinstance(parsed[META], dict):
        faults += rounds_faults(parsed[SERVER], parsed[META], FEWEST_SITES)
    try:
        load_study(folder / "app" / "config")
    except PolyclinicError as error:
        faults.append(Fault("app/config/study.json", f"got {error.got}", error.remedy))
    faults = faults or [f for name in (SERVER, CLIENT) for f in _built(name, parsed[name])]
    return faults or list(_fits(folder))


def check_archive(path: Path) -> list[Fault]:
    """Every fault of a zipped job; it is unpacked, into a temporary folder, only when harmless."""
    try:
        with zipfile.ZipFile(path) as archive:
            faults = archive_faults(archive)
            if faults:
                return faults
            with tempfile.TemporaryDirectory() as spot:
                archive.extractall(spot)  # sizes, names and links have been judged above
                tops = sorted(Path(spot).iterdir())
                if len(tops) != 1 or not tops[0].is_dir():
                    return [Fault(path.name, "not one job folder", "zip the job's folder itself")]
                return check_job(tops[0])
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return [Fault(path.name, f"no readable zip ({type(error).__name__})", "zip it again")]


def _files(folder: Path) -> Iterator[Fault]:
    if not folder.is_dir():
        yield Fault(folder.name, "no such folder", "name a job folder")
        return
    there: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield Fault(name, "a link", "copy the file itself")
        elif path.is_file() and path.name not in SIGNATURES:
            there[name] = path.stat().st_size
        if len(there) > MAX_FILES:
            yield Fault(folder.name, f"more than {MAX_FILES} files", "submit JSON only")
            return
    for name in sorted(set(REQUIRED) - set(there)):
        yield Fault(name, "missing", "every job has it; copy one of ours")
    for name in sorted(set(there) - {*REQUIRED, *OPTIONAL}):
        code = "custom" in PurePosixPath(name).parts
        what = "code in a job" if code else "a file no job of ours has"
        yield Fault(name, what, "remove it; the installed package is the code")
    if sum(there.values()) > MAX_BYTES:
        yield Fault(folder.name, f"more than {MAX_BYTES >> 20} MiB", "submit JSON only")


def _meta(meta: Any, folder: str) -> Iterator[Fault]:
    if not isinstance(meta, dict):
        yield Fault(META, "not an object", "copy one of ours")
        return
    if meta.get("name") != folder:
        yield Fault(META, "name is not the folder's", f"set name to '{folder}'")
    quorum = meta.get("min_clients")
    if not isinstance(quorum, int) or isinstance(quorum, bool) or quorum < 2:
        yield Fault(META, "min_clients below 2", "a study needs two sites at least")
    if meta.get("deploy_map") != {"app": ["@ALL"]}:
        yield Fault(META, "a deploy_map of its own", 'use {"app": ["@ALL"]}')
    if meta.get("mandatory_clients") or meta.get("resource_spec"):
        yield Fault(META, "names sites", "leave mandatory_clients and resource_spec empty")
    if meta.get("scope") != SCOPE:
        yield Fault(META, f"scope is not '{SCOPE}'", "sites refuse any other")
    for key in sorted(set(meta) - META_KEYS):
        yield Fault(META, f"unknown key {key[:40]!r}", "remove it")


def _config(where: str, config: Any) -> Iterator[Fault]:
    if not isinstance(config, dict) or config.get("format_version") != 2:
        yield Fault(where, "format_version is not 2", "copy one of ours")
        return
    if not specs(config):
        yield Fault(where, "names no component", "copy one of ours")
    for trail, key, value in walk(config):
        place = f"{where}:{trail}"
        if key in _FILTERS and value:
            yield Fault(place, "a filter in a job", "filters are the site's; remove it")
        if key == "load_weights_only" and value is not True:
            yield Fault(place, "weights from a pickle", "remove load_weights_only")
        if isinstance(value, str) and PATH.search(value):
            yield Fault(place, "a path", "paths belong in a site's polyclinic.yaml")
        if isinstance(value, str) and _SITE.match(value):
            yield Fault(place, f"the site name '{value}'", "one app serves every site")
    yield from config_faults(where, config)
    for trail, spec in specs(config):
        for what, fix in _class(spec, SOCKETS[where], trail.endswith(_HALVES[where])):
            yield Fault(f"{where}:{trail}", what, fix)


def _class(spec: dict[str, Any], socket: str, half: bool) -> Iterator[tuple[str, str]]:
    """Faults of one ``{"path", "args"}``: in its place, defined there, binds its arguments."""
    path, args = spec["path"], spec.get("args", {})
    if not isinstance(path, str) or not _stands(path, socket, half):
        told = f"class {str(path)[:80]!r} is not allow-listed"
        yield told, f"name {'one under ' + ALGORITHMS[:-1] if half else socket}"
        return
    if not isinstance(args, dict):
        yield f"args of {path} is not an object", "name every argument"
        return
    try:
        kind = _defined(path)
    except (ImportError, AttributeError):
        yield f"there is no {path}", "correct the path, or install the version the job was made for"
        return
    if kind is None or (half and not is_dataclass(kind)):
        yield f"{path} is not a class{' of settings' if half else ''} defined there", "name another"
        return
    try:
        inspect.signature(kind).bind(**args)
    except TypeError as error:
        yield f"{path} does not take its arguments: {error}", "correct args"


def _stands(path: str, socket: str, half: bool) -> bool:
    return path.startswith(ALGORITHMS) if half else path == socket


def _defined(path: str) -> type | None:
    """The class of a path, or None when the path names something else or an import.

    Raises:
        ImportError: there is no such module; AttributeError: nothing of that name in it.
    """
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    return kind if inspect.isclass(kind) and kind.__module__ == module else None


def _fits(folder: Path) -> Iterator[Fault]:
    """Faults of a job whose parts are sound, and which no server could start: halves that differ,
    an encoder that cannot be built, a model that is too large."""
    try:
        load_job(folder)
    except PolyclinicError as error:
        yield Fault("app/config", f"got {error.got}", error.remedy)


def _built(where: str, config: Any) -> Iterator[Fault]:
    """Faults that an algorithm's half finds in its own arguments, in a job without any other."""
    for trail, spec in specs(config):
        kind = _defined(spec["path"]) if trail.endswith(_HALVES[where]) else None
        if kind is None:
            continue
        try:
            kind(**spec.get("args", {}))
        except (TypeError, ValueError, PolyclinicError) as error:
            what = f"{spec['path']} does not take its arguments: {error}"
            yield Fault(f"{where}:{trail}", what, "correct args")
