"""The round ledger: one JSON line per event of a run, in order, never rewritten.

It is what a person may trust when FLARE's own status says something else (a site was lost, the
server was killed), and what a resume starts from. Each line carries the SHA-256 of the line before
it. Beside the file stands its head, ``ledger.jsonl.head``: the number of lines and the SHA-256 of
the last one, replaced as a whole after each line.

Guarantees:
    * a line is on disk (fsync) before ``append`` returns, and its head with it;
    * an ``append`` that raises leaves no line behind;
    * a process killed while it appends leaves a torn last line, which is cut off when the ledger is
      opened again, or one whole line that the head does not count yet, which stands;
    * ``read_ledger`` raises when a line was changed, moved or dropped, the last ones included.

The hashes have no key: they show damage and careless edits. Whoever may write both files can write
a whole new history; against that, keep copies where this account cannot write.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyclinic.errors import CheckpointError
from polyclinic.storage import write_atomic

Record = dict[str, Any]
HEAD = ".head"
_START = "0" * 64
# A reader beside a writer may see the head of one moment and the lines of another.
_LOOKS = 5


@dataclass
class _Lines:
    """Whole lines of a ledger.

    Attributes:
        records: parsed, oldest first.
        hashes: SHA-256 of each line, behind 64 zeros for the start.
        length: of these lines in bytes; what follows in the file is torn.
    """

    records: list[Record] = field(default_factory=list)
    hashes: list[str] = field(default_factory=lambda: [_START])
    length: int = 0


class Ledger:
    """The writing end of a ledger.

    Args:
        path: the file; opened, mended if its last line is torn, or made.
        mirror: a second place that gets the same lines, for people to follow while a run goes on.

    Raises:
        CheckpointError: the chain is broken, or its end is not what the head says.
    """

    def __init__(self, path: Path, mirror: Path | None = None) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _verified(path)
        if path.exists() and path.stat().st_size > found.length:
            os.truncate(path, found.length)
        self._records, self._last = found.records, found.hashes[-1]
        self._places = [path]
        if mirror is not None and mirror.resolve() != path.resolve():
            mirror.parent.mkdir(parents=True, exist_ok=True)
            mirror.write_bytes(path.read_bytes() if path.exists() else b"")
            self._places.append(mirror)
        if self._records:
            self._seal(len(self._records), self._last)

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
            CheckpointError: it cannot be written, and no part of it was left.
        """
        line = json.dumps({**record, "previous": self._last}, sort_keys=True, allow_nan=False)
        sha256 = hashlib.sha256(line.encode()).hexdigest()
        before = [(p, p.stat().st_size if p.exists() else 0) for p in self._places]
        try:
            for place in self._places:
                _append(place, line.encode() + b"\n")
            self._seal(len(self._records) + 1, sha256)
        except CheckpointError:
            for place, size in before:
                if place.exists():
                    os.truncate(place, size)
            # Where even this fails, the next opening tells that the end is not the head's.
            with contextlib.suppress(CheckpointError):
                self._seal(len(self._records), self._last)
            raise
        self._last = sha256
        self._records.append(json.loads(line))

    def _seal(self, lines: int, sha256: str) -> None:
        """Write the head of every place."""
        for place in self._places:
            content = json.dumps({"lines": lines, "sha256": sha256}) + "\n"
            write_atomic(head_of(place), content.encode())


def head_of(path: Path) -> Path:
    """The file beside a ledger that says how it ends."""
    return path.with_name(path.name + HEAD)


def read_ledger(path: Path) -> list[Record]:
    """Every record of a ledger, oldest first, its chain verified; a torn last line is left out.

    Raises:
        CheckpointError: no such file, the chain is broken, or its end is not what the head says.
    """
    if not path.is_file():
        raise CheckpointError(
            expected="a ledger.jsonl in the run's folder",
            got="none",
            remedy="point at a folder that a run has written",
        )
    return _verified(path).records


def _append(path: Path, content: bytes) -> None:
    """Add bytes to a file and to the disk."""
    try:
        with path.open("ab") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise CheckpointError(
            expected="room for one more line in the ledger",
            got=os.strerror(error.errno) if error.errno else type(error).__name__,
            remedy="free space on the server's storage, then resume the run",
        ) from None


def _verified(path: Path) -> _Lines:
    """The whole lines, after a look at chain and head."""
    for _ in range(_LOOKS):
        # The head first: lines that come after it was read are at most too many, never too few.
        lines, sha256 = _head(path)
        found = _scan(path)
        more = len(found.records) - lines
        if more in (0, 1) and found.hashes[lines] == sha256:
            return found
    raise CheckpointError(
        expected=f"an unbroken chain that ends as {path.name}{HEAD} says, with line {lines}",
        got=f"{len(found.records)} line(s), or a last line that was changed, dropped or moved",
        remedy=f"restore {path.name} with its {HEAD} from a backup or from the downloaded job",
    )


def _head(path: Path) -> tuple[int, str]:
    """Lines and SHA-256 of the last; before the first line was counted there is no head."""
    try:
        said = json.loads(head_of(path).read_bytes())
        return int(said["lines"]), str(said["sha256"])
    except FileNotFoundError:
        return 0, _START
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            expected=f"the end of the chain in {path.name}{HEAD}",
            got=type(error).__name__,
            remedy=f"restore {path.name} with its {HEAD} from a backup or the downloaded job",
        ) from None


def _scan(path: Path) -> _Lines:
    """The whole lines of a file, each chained to the one before."""
    found = _Lines()
    content = path.read_bytes() if path.exists() else b""
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or record.get("previous") != found.hashes[-1]:
            raise CheckpointError(
                expected=f"an unbroken chain up to line {len(found.records) + 1} of the ledger",
                got="a line that was changed, dropped or moved",
                remedy="restore ledger.jsonl from a backup or from the downloaded job",
            )
        found.hashes.append(hashlib.sha256(line.rstrip(b"\n")).hexdigest())
        found.length += len(line)
        found.records.append(record)
    return found
