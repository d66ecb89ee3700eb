"""A job's files before they are trusted: names, sizes, and the text of its two configs.

Read by ``polyclinic job show``, by the server on submission and by each hospital on deployment.
Nothing is unpacked, imported or built here.

FLARE reads more than JSON: ``config_fed_client.conf`` may include files and addresses, and a string
``{$NAME}`` of a JSON config becomes an environment variable of the machine that runs the job. So
only the files named here pass, and no string in them holds a brace or a dollar.
"""

import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from zipfile import ZipFile

from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE

from polyclinic.flare.bundle import FINGERPRINT

META = "meta.json"
SERVER = "app/config/config_fed_server.json"
CLIENT = "app/config/config_fed_client.json"
REQUIRED = (META, SERVER, CLIENT, "app/config/study.json")
OPTIONAL = ("app/config/panels.json",)
# Submitting leaves them in the folder, one of each per directory.
SIGNATURES = frozenset({NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE})
# Code is not judged by its name but by the right to bring it, which FLARE asks for.
CODE = "app/custom/"
BUNDLED = f"app/config/{FINGERPRINT}"

ALGORITHMS = "polyclinic.algorithms."
ROUNDS = "polyclinic.flare.controller.Rounds"
EXECUTOR = "polyclinic.flare.executor.SiteExecutor"
SOCKETS = {SERVER: ROUNDS, CLIENT: EXECUTOR}
FEWEST_SITES = 2  # what one site sent is never a model

MAX_FILES = 64
MAX_BYTES = 16 << 20
MAX_RATIO = 100
RATIO_FROM_BYTES = 1 << 20  # panels of names compress well and are small
MAX_DEPTH = 32

# /data, ~/x, C:\x, \\host, ../x: a path is the hospital's, never the job's.
PATH = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\\\\|file:)|(^|[\\/])\.\.([\\/]|$)")
_SUBSTITUTED = re.compile(r"[{}$]")
_OTHER_CLASS_KEYS = ("class_path", "name")


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a job, and the step that mends it."""

    where: str
    what: str
    remedy: str


def archive_faults(archive: ZipFile) -> list[Fault]:
    """Faults that an archive's directory shows; names are shortened and shown as repr."""
    entries = archive.infolist()
    if len(entries) > 2 * MAX_FILES:
        return [Fault("archive", f"{len(entries)} entries", f"at most {MAX_FILES} files")]
    faults = []
    for entry in entries:
        name = entry.orig_filename
        if PATH.search(name) or "\\" in name or "\0" in name or ":" in name:
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


def read_configs(archive: ZipFile, *, app: bool = False) -> tuple[dict[str, Any], list[Fault]]:
    """The two configs of an archive by ``SERVER`` and ``CLIENT``, and the faults of its content.

    Args:
        app: of the app alone (``config/...``), as a hospital gets it; else of a job's
            folder (``NAME/meta.json``, ``NAME/app/config/...``).
    """
    names = [e.filename for e in archive.infolist() if not e.is_dir()]
    metas = [n for n in names if n.rpartition("/")[2] == META]
    if len(metas) != (0 if app else 1):
        return {}, [Fault("archive", f"{len(metas)} files {META}", "zip the job's folder itself")]
    top, put = ("", "app/") if app else (metas[0][: -len(META)], "")
    # Compared as text: 'config/./x' and 'config//x' are the same file once they are unpacked.
    places = {name: put + name.removeprefix(top) for name in names if name.startswith(top)}
    faults = [
        Fault(repr(n[:60]), "a file no job of ours has", "remove it; the package is the code")
        for n in names
        if n not in places or not _known(places[n])
    ]
    there = {place: name for name, place in places.items()}
    faults += [
        Fault(n, "missing", "submit the job folder itself") for n in SOCKETS if n not in there
    ]
    if faults:
        return {}, faults
    configs: dict[str, Any] = {}
    for place in SOCKETS:
        try:
            configs[place] = strict_json(archive.read(there[place]).decode())
        except (ValueError, RecursionError):
            faults.append(Fault(place, "not plain JSON", "mend the file"))
            continue
        faults += config_faults(place, configs[place])
        faults += _place_faults(place, configs[place]) if not faults else []
    return configs, faults


def _known(place: str) -> bool:
    """Whether a job may have this file, as far as the name says."""
    listed = place in {*REQUIRED, *OPTIONAL, BUNDLED} or place.startswith(CODE)
    return listed or place.rpartition("/")[2] in SIGNATURES


def config_faults(where: str, config: Any) -> Iterator[Fault]:
    """Faults of a config's text: what FLARE would replace, and classes by another key than path."""
    if not isinstance(config, dict):
        yield Fault(where, "not an object", "copy one of ours")
        return
    for trail, key, value in walk(config):
        if any(isinstance(t, str) and _SUBSTITUTED.search(t) for t in (key, value)):
            # The text is not repeated, nor the trail, which may hold it.
            yield Fault(
                where, "a text with '{', '}' or '$'", "FLARE would replace it; write it out"
            )
            return
        if key in _OTHER_CLASS_KEYS:
            yield Fault(f"{where}:{trail}", f"the key '{key}'", "name a class by 'path'")


def _place_faults(where: str, config: Any) -> Iterator[Fault]:
    """Classes of this package out of their place; of others FLARE's list says, which is signed."""
    for _, spec in specs(config):
        path = spec["path"]
        ours = isinstance(path, str) and path.partition(".")[0] == "polyclinic"
        if ours and path != SOCKETS[where] and not path.startswith(ALGORITHMS):
            fix = f"name {SOCKETS[where]} and classes under {ALGORITHMS[:-1]}"
            yield Fault(where, "a class that is no part of a job", fix)


def rounds_faults(config: Any, meta: Mapping[str, Any], minimum: int) -> Iterator[Fault]:
    """Faults of ``min_sites``, fewest sites whose updates a round may average.

    Args:
        config: the server's.
        meta: the job's; ``min_clients`` is how many sites must be there at the start.
        minimum: fewest sites that may train together here.
    """
    fewest = max(FEWEST_SITES, minimum)
    start = meta.get("min_clients")
    for _, spec in specs(config):
        if spec["path"] != ROUNDS:
            continue
        args = spec.get("args")
        asked = args.get("min_sites", FEWEST_SITES) if isinstance(args, dict) else None
        if type(asked) is not int or asked < fewest:
            yield Fault(SERVER, f"min_sites below {fewest}", f"set min_sites to {fewest} or more")
        elif type(start) is int and asked > start:
            yield Fault(SERVER, "min_sites above min_clients", "raise min_clients in meta.json")


def specs(config: Any) -> list[tuple[str, dict[str, Any]]]:
    """Trail and object of every object with a class path, wherever it stands."""
    found = [("", config)] if isinstance(config, dict) and "path" in config else []
    objects = ((trail, value) for trail, _, value in walk(config) if isinstance(value, dict))
    return found + [(trail, value) for trail, value in objects if "path" in value]


def walk(value: Any, trail: str = "") -> Iterator[tuple[str, str, Any]]:
    """Trail, key and value of everything inside; lists count from 0."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        here = f"{trail}.{key}" if trail else str(key)
        yield here, str(key), inner
        if isinstance(inner, dict | list):
            yield from walk(inner, here)


def strict_json(text: str) -> Any:
    """Parsed JSON without repeated keys, NaN or endless nesting.

    Raises:
        ValueError: the text is something else; RecursionError when it nests without end.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    parsed = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    if isinstance(parsed, dict | list) and any(
        t.count(".") > MAX_DEPTH for t, _, _ in walk(parsed)
    ):
        raise ValueError("nested too deeply")
    return parsed
