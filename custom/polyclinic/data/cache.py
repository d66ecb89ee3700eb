"""Decoded arrays on disk, so that a file is decoded once and not in every epoch.

Guarantees:
    * An entry holds an array, or the reason code and hash of a file that was refused; never a
      name, a tag or a patient.
    * The name of an entry is a hash with a random key that lies in the folder, for its owner only:
      who has a list of file names but not the key cannot tell whose entry is there.
    * An entry is whole or absent, and a torn one is made again, whoever else writes at that time.
      Nothing waits for the disk: each entry ends with a checksum, which is compared when a process
      first reads it, so that what a power cut has torn is found.
    * The folder may be deleted at any time: what is missing is decoded again.
    * The last ``RESERVE`` bytes of a disk stay free.
"""

import contextlib
import hashlib
import hmac
import io
import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyclinic import __version__
from polyclinic.data.quarantine import REASONS
from polyclinic.errors import CheckpointError, DataRejected, SiteError
from polyclinic.storage import write_atomic

Array = npt.NDArray[Any]
Make = Callable[[], Array]

# NumPy reads a header by Python's own parser, and two threads in it at once raised a SystemError
# ("recursion depth mismatch") on Python 3.11.7, seen once in a run of the tests.
_HEADERS = threading.Lock()
RESERVE = 1 << 30
KEY_NAME = "key"
KEY_BYTES = 32
CHECKSUM_BYTES = 4
# After a day a refused file is looked at again: a network drive may have had a bad hour.
REFUSAL_SECONDS = 86_400
LEFTOVER_SECONDS = 3_600


@dataclass(frozen=True)
class Held:
    """One decoded file, read when it is needed.

    A column keeps these and not the arrays: a memory map costs a file descriptor, and a hospital
    has more films than a process may have descriptors.
    """

    cache: "ArrayCache" = field(repr=False)
    entry: str
    make: Make = field(repr=False)

    def read(self) -> Array:
        """The array, memory-mapped and read-only; decoded again where the entry is gone.

        Raises:
            DataRejected: the file is refused.
            SiteError: the disk is full.
        """
        return self.cache.load(self.entry, self.make)


class ArrayCache:
    """Arrays of files under one recipe.

    Args:
        folder: of the site's cache; ``None`` keeps nothing and decodes each time.
        recipe: everything besides the file that decides the array, JSON-able.
    """

    def __init__(self, folder: Path | None, recipe: Mapping[str, Any]) -> None:
        self.folder: Path | None = None
        self.key = b""
        self._whole: set[str] = set()
        if folder is None:
            return
        told = json.dumps({"version": __version__, **recipe}, sort_keys=True)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.key = _key(folder)
            # The name of a recipe is no secret; keyed all the same, since it costs nothing.
            self.folder = folder / self._named(told)[:16]
            self.folder.mkdir(mode=0o700, exist_ok=True)
            _remove_leftovers(self.folder)
        except OSError as error:
            raise _unusable(os.strerror(error.errno or 0)) from None

    def get(self, path: Path | tuple[Path, ...], make: Make) -> Array:
        """The array of a file, or of files that make one array together.

        Raises:
            DataRejected: ``make`` refuses the file, or did so within a day.
            SiteError: the disk is full.
        """
        return self.hold(path, make).read()

    def hold(self, path: Path | tuple[Path, ...], make: Make) -> Held:
        """A handle to the array of a file as it lies now; nothing is decoded yet."""
        paths = path if isinstance(path, tuple) else (path,)
        if self.folder is None:
            return Held(self, "", make)
        told = []
        for place in paths:
            try:
                status = place.stat()
            except OSError:
                return Held(self, "", make)  # refused by ``make``, and not remembered
            # A corrected export may keep size and time of change; nobody can keep the ctime.
            stamp = f"{status.st_size}/{status.st_mtime_ns}/{status.st_ctime_ns}"
            told.append(f"{stamp}/{os.path.abspath(place)}")
        return Held(self, self._named("\n".join(told)), make)

    def load(self, entry: str, make: Make) -> Array:
        """The array of an entry, made where it is absent or torn."""
        if not entry or self.folder is None:
            return make()
        array = self._found(entry)
        if array is not None:
            return array
        refusal = self.folder / f"{entry}.json"
        _raise_known(refusal)
        try:
            made = make()
        except DataRejected as error:
            if error.file_hash:  # without a hash the file could not even be read: try again
                told = {"reason": error.reason, "hash": error.file_hash}
                self._write(refusal, json.dumps(told).encode())
            raise
        stream = io.BytesIO()
        np.save(stream, made, allow_pickle=False)
        content = stream.getvalue()
        self._write(self.folder / f"{entry}.npy", content + _checksum(content))
        array = self._found(entry)
        return made if array is None else array  # deleted again in this moment

    def _found(self, entry: str) -> Array | None:
        """An entry, memory-mapped; ``None`` when absent or torn."""
        path = Path(self.folder or "") / f"{entry}.npy"
        if entry not in self._whole:
            if not _is_whole(path):
                return None
            self._whole.add(entry)
        return _mapped(path)

    def _named(self, told: str) -> str:
        """A hash that only the owner of the key can make; 32 hex digits."""
        raw = told.encode("utf-8", "surrogateescape")
        return hmac.new(self.key, raw, "sha256").hexdigest()[:32]

    def _write(self, path: Path, content: bytes) -> None:
        """Store one entry.

        Raises:
            SiteError: less than ``RESERVE`` would stay free, or the folder cannot be written.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
        except OSError as error:
            raise _unusable(os.strerror(error.errno or 0)) from None
        if free - len(content) < RESERVE:
            raise _unusable(f"{free >> 20} MiB")
        try:
            write_atomic(path, content, durable=False)
        except CheckpointError as error:
            raise _unusable(error.got) from None


def _key(folder: Path) -> bytes:
    """The key of a cache folder, drawn by whoever comes first.

    Raises:
        SiteError: it was cut short, and stays so.
    """
    path = folder / KEY_NAME
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            stream.write(os.urandom(KEY_BYTES))
            os.fsync(stream.fileno())
    for _ in range(20):
        key = path.read_bytes()
        if len(key) == KEY_BYTES:
            return key
        time.sleep(0.05)  # another process is just writing it
    raise _unusable("a damaged key in it")


def _checksum(content: bytes | memoryview) -> bytes:
    """Of what stands before it in an entry; ``np.load`` does not look that far."""
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big")


def _is_whole(path: Path) -> bool:
    """Whether an entry holds what was written."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return False
    return content[-CHECKSUM_BYTES:] == _checksum(content[:-CHECKSUM_BYTES])


def _mapped(path: Path) -> Array | None:
    """An entry, memory-mapped; ``None`` when absent or torn."""
    try:
        with _HEADERS:
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array


def _raise_known(path: Path) -> None:
    """Refuse a file that was refused a short time ago.

    Raises:
        DataRejected: it was.
    """
    try:
        # Also of tomorrow, when a clock that ran ahead was set right.
        if abs(time.time() - path.stat().st_mtime) > REFUSAL_SECONDS:
            return
        content = json.loads(path.read_bytes())
        reason, told = str(content["reason"]), str(content["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if reason in REASONS:
        raise DataRejected(
            reason,
            file_hash=told,
            expected="a file that can be read",
            got=REASONS[reason],
            remedy="mend or remove the file",
        )


def _remove_leftovers(folder: Path) -> None:
    """Delete temporary files of processes that were killed; those of living ones are younger."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()


def _unusable(got: str) -> SiteError:
    return SiteError(
        expected=f"a cache folder that can be written, with {RESERVE >> 20} MiB to spare",
        got=got,
        remedy="free space, delete the cache folder (it is made again), or set 'cache' in "
        "polyclinic.yaml to a larger disk",
    )


def content_of(array: Array) -> bytes:
    """A fingerprint of what an array holds: equal for equal pixels of equal shape."""
    told = f"{array.dtype.str}/{array.shape}/".encode()
    return hashlib.sha256(told + np.ascontiguousarray(array).tobytes()).digest()
