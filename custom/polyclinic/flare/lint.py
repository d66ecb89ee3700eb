"""What a job may be: JSON and nothing else, for every site the same, and small.

``check_job`` reads a folder, ``check_archive`` a zip file of one before anything is unpacked. Both
return every fault at once and never run what they read: a class is imported only when its path is
on the allow-list that provisioning writes, and only to see whether it accepts its arguments.

Guarantees (tests/flare/test_lint.py has one test per line):
    * no code, link, absolute path, site name, filter or pickle switch passes;
    * a job that needs fewer than two sites does not pass;
    * an archive that would unpack beyond the limits, or outside its folder, is not unpacked.
"""

import importlib
import inspect
import json
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE

from polyclinic.errors import PolyclinicError
from polyclinic.flare.policy import ALLOWED_CLASSES, SCOPE
from polyclinic.study import load_study

SERVER = "app/config/config_fed_server.json"
CLIENT = "app/config/config_fed_client.json"
REQUIRED = ("meta.json", SERVER, CLIENT, "app/config/study.json")
OPTIONAL = ("app/config/panels.json",)
# Submitting leaves them in the folder, one of each per directory.
SIGNATURES = frozenset({NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE})
META_KEYS = frozenset(
    {"name", "min_clients", "deploy_map", "resource_spec", "scope", "mandatory_clients"}
)

MAX_FILES = 64
MAX_BYTES = 16 << 20
MAX_RATIO = 100
RATIO_FROM_BYTES = 1 << 20  # panels of names compress well and are small
MAX_DEPTH = 32

# /data, ~/x, C:\x, \\host, ../x: a path is the hospital's, never the job's.
_PATH = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\\\\|file:)|(^|[\\/])\.\.([\\/]|$)")
_SITE = re.compile(r"^(site|hosp(ital)?)[-_ ]?\w{1,2}$", re.IGNORECASE)
_FILTERS = ("task_data_filters", "task_result_filters")


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a job, and the step that mends it."""

    where: str
    what: str
    remedy: str


def check_job(folder: Path) -> list[Fault]:
    """Every fault of a job folder; empty for a job that may be submitted."""
    faults = list(_files(folder))
    if faults:  # nothing is parsed from a folder that is not a job's
        return faults
    parsed: dict[str, Any] = {}
    for name in (*REQUIRED[:3], *(n for n in (*REQUIRED[3:], *OPTIONAL) if (folder / n).exists())):
        try:
            parsed[name] = _strict_json((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            faults.append(Fault(name, f"not plain JSON: {error}", "mend the file"))
    if faults:
        return faults
    faults += _meta(parsed["meta.json"], folder.name)
    for name in (SERVER, CLIENT):
        faults += _config(name, parsed[name])
    try:
        load_study(folder / "app" / "config")
    except PolyclinicError as error:
        faults.append(Fault("app/config/study.json", f"got {error.got}", error.remedy))
    return faults


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


def archive_faults(archive: zipfile.ZipFile) -> list[Fault]:
    """Faults that an archive's directory shows; names are shortened and shown as repr."""
    entries = archive.infolist()
    if len(entries) > 2 * MAX_FILES:
        return [Fault("archive", f"{len(entries)} entries", f"at most {MAX_FILES} files")]
    faults = []
    for entry in entries:
        name = entry.orig_filename
        if _PATH.search(name) or "\\" in name or "\0" in name or ":" in name:
            faults.append(Fault(repr(name[:60]), "leads out of its folder", "zip the folder again"))
        if stat.S_ISLNK(entry.external_attr >> 16):
            faults.append(Fault(repr(name[:60]), "a link", "zip the file itself"))
    if len({entry.filename for entry in entries}) != len(entries):
        faults.append(Fault("archive", "two entries of one name", "zip the folder again"))
    size = sum(entry.file_size for entry in entries)
    packed = max(sum(entry.compress_size for entry in entries), 1)
    if size > MAX_BYTES or (size > RATIO_FROM_BYTES and size > MAX_RATIO * packed):
        what = f"would unpack to {size} bytes from {packed}"
        faults.append(Fault("archive", what, "submit JSON only"))
    return faults


def _meta(meta: Any, folder: str) -> Iterator[Fault]:
    if not isinstance(meta, dict):
        yield Fault("meta.json", "not an object", "copy one of ours")
        return
    if meta.get("name") != folder:
        yield Fault("meta.json", "name is not the folder's", f"set name to '{folder}'")
    quorum = meta.get("min_clients")
    if not isinstance(quorum, int) or isinstance(quorum, bool) or quorum < 2:
        yield Fault("meta.json", "min_clients below 2", "a study needs two sites at least")
    if meta.get("deploy_map") != {"app": ["@ALL"]}:
        yield Fault("meta.json", "a deploy_map of its own", 'use {"app": ["@ALL"]}')
    if meta.get("mandatory_clients") or meta.get("resource_spec"):
        yield Fault("meta.json", "names sites", "leave mandatory_clients and resource_spec empty")
    if meta.get("scope") != SCOPE:
        yield Fault("meta.json", f"scope is not '{SCOPE}'", "sites refuse any other")
    for key in sorted(set(meta) - META_KEYS):
        yield Fault("meta.json", f"unknown key {key[:40]!r}", "remove it")


def _config(where: str, config: Any) -> Iterator[Fault]:
    if not isinstance(config, dict) or config.get("format_version") != 2:
        yield Fault(where, "format_version is not 2", "copy one of ours")
        return
    if not _specs(config):
        yield Fault(where, "names no component", "copy one of ours")
    for trail, key, value in _walk(config):
        place = f"{where}:{trail}"
        if key in _FILTERS and value:
            yield Fault(place, "a filter in a job", "filters are the site's; remove it")
        if key == "load_weights_only" and value is not True:
            yield Fault(place, "weights from a pickle", "remove load_weights_only")
        if isinstance(value, str) and _PATH.search(value):
            yield Fault(place, "a path", "paths belong in a site's polyclinic.yaml")
        if isinstance(value, str) and _SITE.match(value):
            yield Fault(place, f"the site name '{value}'", "one app serves every site")
    for trail, spec in _specs(config):
        yield from (Fault(f"{where}:{trail}", what, fix) for what, fix in _class(spec))


def _class(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Faults of one ``{"path", "args"}``: on the list, importable, binds its arguments."""
    path, args = spec["path"], spec.get("args", {})
    if not isinstance(path, str) or not path.startswith(ALLOWED_CLASSES):
        yield f"class {str(path)[:80]!r} is not allow-listed", f"use {' or '.join(ALLOWED_CLASSES)}"
        return
    if not isinstance(args, dict):
        yield f"args of {path} is not an object", "name every argument"
        return
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        yield f"there is no {path}", "correct the path, or install the version the job was made for"
        return
    if not inspect.isclass(kind):
        yield f"{path} is not a class", "name a class"
        return
    try:
        inspect.signature(kind).bind(**args)
        if not any(isinstance(v, dict) and "path" in v for v in args.values()):
            kind(**args)  # allow-listed constructors only store and validate
    except (TypeError, ValueError, PolyclinicError) as error:
        yield f"{path} does not take its arguments: {error}", "correct args"


def _specs(config: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every object with a class path, wherever it stands."""
    found = [("", config)] if isinstance(config, dict) and "path" in config else []
    objects = ((trail, value) for trail, _, value in _walk(config) if isinstance(value, dict))
    return found + [(trail, value) for trail, value in objects if "path" in value]


def _walk(value: Any, trail: str = "") -> Iterator[tuple[str, str, Any]]:
    """Trail, key and value of everything inside; lists count from 0."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        here = f"{trail}.{key}" if trail else str(key)
        yield here, str(key), inner
        if isinstance(inner, dict | list):
            yield from _walk(inner, here)


def _strict_json(text: str) -> Any:
    """Parsed JSON without repeated keys, NaN or endless nesting."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    parsed = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    if isinstance(parsed, dict | list) and any(
        t.count(".") > MAX_DEPTH for t, _, _ in _walk(parsed)
    ):
        raise ValueError("nested too deeply")
    return parsed
