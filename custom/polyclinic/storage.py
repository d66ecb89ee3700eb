"""Files that are either whole or not there, and are checked when they are read.

Guarantees:
    * a reader sees the old file or the new one, never a part: temporary file, fsync, rename;
    * a failed write leaves the old file as it was and no temporary file behind;
    * ``load_tensors`` returns what ``save_tensors`` was given, or raises: SHA-256, names, dtypes,
      shapes and finiteness are compared before anything is handed out.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as _decode
from safetensors.numpy import save as _encode

from polyclinic.errors import CheckpointError
from polyclinic.exchange import Tensors, TensorSpec


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> str:
    """Replace a file as a whole; returns the SHA-256 of the content in hex.

    Args:
        durable: wait until the disk has it. Without, a power cut may leave a file whose content
            is not what was written, which its reader has to find out.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the old file stands.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise _unwritable(error) from None
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(name, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise _unwritable(error) from None
    return hashlib.sha256(content).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of a process that was killed while it wrote."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Tensors) -> str:
    """Write tensors as safetensors; returns the SHA-256 of the file in hex."""
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    return write_atomic(path, _encode(ordered))


def load_tensors(path: Path, sha256: str, specs: Mapping[str, TensorSpec] | None = None) -> Tensors:
    """Tensors of a file whose SHA-256 is known.

    Args:
        path: a safetensors file.
        sha256: what ``save_tensors`` returned.
        specs: the exact names, shapes and dtypes to find; None checks finiteness only.

    Raises:
        CheckpointError: unreadable, altered, torn, not finite, or not what ``specs`` names.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _bad("a readable file", type(error).__name__) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _bad("the SHA-256 that was recorded when it was written", "another one")
    try:
        tensors: Tensors = dict(_decode(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _bad("safetensors", type(error).__name__) from None
    if specs is not None:
        require_contract(tensors, specs)
    _require_finite(tensors, "")
    return tensors


def require_contract(tensors: Tensors, specs: Mapping[str, TensorSpec], *, owner: str = "") -> None:
    """Pass a whole state whose names, shapes and dtypes are the contract's and that is finite.

    Raises:
        CheckpointError: it is not.
    """
    odd = sorted(set(tensors) ^ set(specs))
    if odd:
        got = f"{len(odd)} name(s) too many or missing"
        raise _bad("the tensors of the contract", got, owner)
    for name, spec in specs.items():
        if tensors[name].shape != spec.shape or tensors[name].dtype.name != spec.dtype:
            got = f"{tensors[name].dtype.name} {tensors[name].shape}"
            raise _bad(f"'{name}' as {spec.dtype} {spec.shape}", got, owner)
    _require_finite(tensors, owner)


def _require_finite(tensors: Tensors, owner: str) -> None:
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _bad(f"finite numbers in '{name}'", "NaN or infinity", owner)


def _bad(expected: str, got: str, owner: str = "") -> CheckpointError:
    remedy = "restore the file from the run's own storage"
    if owner:
        remedy = "mend the algorithm's server half"
    return CheckpointError(expected=expected, got=got, remedy=remedy, owner=owner)


def _unwritable(error: OSError) -> CheckpointError:
    return CheckpointError(
        expected="room and permission to write in the storage folder",
        got=os.strerror(error.errno) if error.errno else type(error).__name__,
        remedy="free space or mend the permissions, then resume the run",
    )
