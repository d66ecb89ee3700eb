"""Checks on the kit's files: as signed, closed to others, and storing where storing is safe."""

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyclinic.flare.doctor.kit import Finding, Kit, failed, warned
from polyclinic.flare.manifest import manifest_faults
from polyclinic.settings import load_settings

_SHOWN = 3
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")


def signed_manifest(kit: Kit) -> Iterator[Finding]:
    """Every file as the consortium signed it, none added, none gone."""
    faults = manifest_faults(kit.folder)
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        yield failed(
            "signed-manifest",
            ", ".join(faults[:_SHOWN]) + more,
            "unpack the kit anew; to change it, ask for a kit made from a changed description",
            "site IT",
        )


def closed_modes(kit: Kit) -> Iterator[Finding]:
    """Keys readable by their owner only; nothing writable by others; the root key shut away."""
    keys = [*kit.startup.glob("*.key")]
    root_state = kit.folder.parent.parent / "state" / "cert.json"
    if root_state.is_file():
        keys.append(root_state)
    for path in keys:
        if path.stat().st_mode & _OTHERS:
            yield failed(
                "closed-modes",
                f"{path.name} can be read by others on this machine",
                f"run chmod 600 on {path.parent.name}/{path.name}, and ask for a new certificate"
                " if somebody had the chance to copy it",
                "site IT",
            )
    lying = [kit.folder]
    lying += [p for f in (kit.startup, kit.local) for p in (f, *f.rglob("*"))]
    open_files = [p for p in lying if not p.is_symlink() and p.stat().st_mode & _OTHERS_WRITE]
    if open_files:
        yield failed(
            "closed-modes",
            f"{len(open_files)} file(s) or folder(s) of the kit can be written by others",
            "run chmod -R go-w on the kit",
            "site IT",
        )


def storage_inside(kit: Kit) -> Iterator[Finding]:
    """Jobs, checkpoints and personal heads do not lie where a restart or a neighbour reaches."""
    named = [p for p in _strings(kit.resources) if _in_temporary(Path(p))]
    if named:
        yield failed(
            "storage-inside",
            "local/resources.json stores in a shared temporary folder",
            "put back the file that came with the kit",
            "site IT",
        )
    storage = Path(load_settings(kit.local / "polyclinic.yaml").storage)
    if not _in_temporary(storage):
        return
    if _private(storage):
        yield warned(
            "storage-inside",
            "storage lies in a temporary folder, which a restart may empty",
            "move the kit, or set 'storage' in polyclinic.yaml to a folder on a disk that stays",
            "site IT",
        )
    else:
        yield failed(
            "storage-inside",
            "storage lies in a temporary folder that others can enter",
            "move the kit, or set 'storage' in polyclinic.yaml to a folder on a disk that stays",
            "site IT",
        )


def _in_temporary(path: Path) -> bool:
    shared = [Path(t) for t in (*TEMPORARY, tempfile.gettempdir())]
    return path.is_absolute() and any(path == t or t in path.parents for t in shared)


def _private(path: Path) -> bool:
    """True when a folder on the way down is closed to others."""
    shared = {Path(t) for t in (*TEMPORARY, tempfile.gettempdir())}
    below = [p for p in (path, *path.parents) if p not in shared and shared & set(p.parents)]
    return any(p.is_dir() and not p.stat().st_mode & _OTHERS for p in below)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
