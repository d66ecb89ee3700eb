"""The round ledger: one JSON line per event of a run, in order, never rewritten.

It is what a person may trust when FLARE's own status says something else (a site was lost, the
server was killed), and what a resume starts from. Each line carries the SHA-256 of the line before
it, so a line that was changed, dropped or moved is noticed.

Guarantees:
    * a line is on disk (fsync) before ``append`` returns;
    * a process killed while it appends leaves at most one torn last line, which is cut off when
      the ledger is opened again; every line before it stands;
    * ``read_ledger`` raises unless the chain is whole.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from polyclinic.errors import CheckpointError

Record = dict[str, Any]
_START = "0" * 64


class Ledger:
    """The writing end of a ledger.

    Args:
        path: the file; opened, mended if its last line is torn, or made.
        mirror: a second place that gets the same lines, for people to follow while a run goes on.
    """

    def __init__(self, path: Path, mirror: Path | None = None) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._records, length = _scan(path)
        if path.exists() and path.stat().st_size > length:
            os.truncate(path, length)
        self._last = _chain_end(path)
        self._places = [path]
        if mirror is not None and mirror.resolve() != path.resolve():
            mirror.parent.mkdir(parents=True, exist_ok=True)
            mirror.write_bytes(path.read_bytes() if path.exists() else b"")
            self._places.append(mirror)

    @property
    def path(self) -> Path:
        """Where the ledger lies."""
        return self._path

    @property
    def records(self) -> list[Record]:
        """Every record, oldest first."""
        return list(self._records)

    def append(self, record: Record) -> None:
        """Write one record; it is on disk when this returns.

        Raises:
            CheckpointError: the disk is full; a part of the line that was written is cut off.
        """
        line = json.dumps({**record, "previous": self._last}, sort_keys=True, allow_nan=False)
        for place in self._places:
            _append(place, line.encode() + b"\n")
        self._last = hashlib.sha256(line.encode()).hexdigest()
        self._records.append(json.loads(line))


def _append(path: Path, content: bytes) -> None:
    """Add bytes to a file and to the disk, or leave the file as it was."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, before)
        raise CheckpointError(
            expected="room for one more line in the ledger",
            got=os.strerror(error.errno) if error.errno else type(error).__name__,
            remedy="free space on the server's storage, then resume the run",
        ) from None


def read_ledger(path: Path) -> list[Record]:
    """Every record of a ledger, oldest first, its chain verified; a torn last line is left out.

    Raises:
        CheckpointError: no such file, or the chain is broken.
    """
    if not path.is_file():
        raise CheckpointError(
            expected="a ledger.jsonl in the run's folder",
            got="none",
            remedy="point at a folder that a run has written",
        )
    return _scan(path)[0]


def _scan(path: Path) -> tuple[list[Record], int]:
    """Records whose lines are whole, and the length in bytes of those lines."""
    records: list[Record] = []
    length, last = 0, _START
    content = path.read_bytes() if path.exists() else b""
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or record.get("previous") != last:
            raise CheckpointError(
                expected=f"an unbroken chain up to line {len(records) + 1} of the ledger",
                got="a line that was changed, dropped or moved",
                remedy="restore ledger.jsonl from a backup or from the downloaded job",
            )
        last = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
        length += len(line)
        records.append(record)
    return records, length


def _chain_end(path: Path) -> str:
    """SHA-256 of the last line, or zeros where there is none."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return hashlib.sha256(lines[-1]).hexdigest() if lines else _START
