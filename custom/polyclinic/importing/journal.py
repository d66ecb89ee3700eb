"""What an import has done, line by line, so that the next run goes on where this one ended.

A line names its original by a keyed hash only. A line that was cut short by a power cut is passed
over, and its file is imported again.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One file that was taken over.

    Attributes:
        source: keyed hash of the original's path, size and time of change.
        rules: keyed hash of how its modality is imported.
        file: relative to the site folder.
        twin: what ids share that differ only in case or leading zeros, hashed.
    """

    source: str
    rules: str
    modality: str
    file: str
    patient: str = field(repr=False)
    twin: str = field(repr=False, default="")
    sequence: str = ""
    record: str = field(repr=False, default="")


class Journal:
    """The lines of one cohort.

    Args:
        path: of the journal in the site's storage.
        out: the site folder; a line whose file is gone from it does not count.
    """

    def __init__(self, path: Path, out: Path) -> None:
        self.path, self.out = path, out
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.lines = {line.file: line for line in _read(path) if (out / line.file).is_file()}
        self.sources = {line.source: line for line in self.lines.values()}
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        self._stream = os.fdopen(os.open(path, flags, 0o600), "ab", buffering=0)
        if path.stat().st_size:
            self._stream.write(b"\n")  # ends a line that was cut short

    def add(self, line: Line) -> None:
        """Write one line at once."""
        self._stream.write(json.dumps(asdict(line)).encode() + b"\n")
        self.lines[line.file] = self.sources[line.source] = line

    def drop(self, line: Line) -> None:
        """Delete a copy that later rules do not make; its line no longer counts."""
        with contextlib.suppress(OSError):
            (self.out / line.file).unlink(missing_ok=True)
        self.lines.pop(line.file, None)
        self.sources.pop(line.source, None)

    def close(self) -> None:
        """Put everything on the disk."""
        with contextlib.suppress(OSError):
            os.fsync(self._stream.fileno())
        self._stream.close()


def ambiguous(lines: Iterable[Line]) -> list[Line]:
    """NIfTI files of which a patient, or record, has several for one sequence: none says which.

    Slices of DICOM are many by nature; the reader tells their series apart.
    """
    same: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line.sequence and line.file.endswith((".nii", ".nii.gz")):
            same.setdefault((line.record or line.patient, line.sequence), []).append(line)
    return [line for found in same.values() if len(found) > 1 for line in found]


def _read(path: Path) -> list[Line]:
    """The lines of a journal; damaged ones are passed over."""
    try:
        raw = path.read_bytes()
    except OSError:
        return []
    lines = []
    for text in raw.split(b"\n"):
        with contextlib.suppress(ValueError, TypeError):
            lines.append(Line(**json.loads(text)))
    return lines
