"""Why a file is refused, said before its hash is known, and the one way that leaves a reader."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from polyclinic.data.quarantine import REASONS, file_hash
from polyclinic.errors import DataRejected, PolyclinicError

T = TypeVar("T")


class Flaw(Exception):
    """A file breaks a rule.

    Args:
        reason: a key of ``REASONS``.
        got: shapes, counts and words of ours; never text of the file.
    """

    def __init__(self, reason: str, got: str) -> None:
        super().__init__(reason, got)
        self.reason, self.got = reason, got


def guarded(path: Path, expected: str, work: Callable[[], T]) -> T:
    """What ``work`` returns; whatever it raises becomes one ``DataRejected``.

    The error is raised outside the ``except`` block: its ``__context__`` would otherwise keep the
    library's own exception, and with it the values of tags.

    Raises:
        DataRejected: with a reason code and the hash of the file; never its name or content.
        SiteError: the machine, not the file, is at fault.
    """
    try:
        return work()
    except Flaw as flaw:
        reason, got = flaw.reason, flaw.got
    except FileNotFoundError:
        reason, got = "missing_file", "no such file"
    except PolyclinicError:
        raise
    except Exception as error:
        # pydicom and Pillow raise at least seven types on damaged files; the name alone is safe.
        reason, got = "unreadable", type(error).__name__
    raise DataRejected(
        reason,
        file_hash=file_hash(path) if _regular(path) else "",
        expected=expected,
        got=f"{REASONS[reason]} ({got})",
        remedy="export the file again, or leave it out",
    )


def read_bytes(path: Path, limit: int) -> bytes:
    """The whole file, if it is a regular one of at most ``limit`` bytes.

    Raises:
        Flaw: ``too_large``, or ``unreadable`` for a pipe or device, which could block for ever.
        OSError: it cannot be opened.
    """
    size = path.stat().st_size
    if not _regular(path):
        raise Flaw("unreadable", "not a regular file")
    if size > limit:
        raise Flaw("too_large", f"{size >> 20} MiB")
    with path.open("rb") as file:
        # Its own size, not the limit: Python takes the memory that it is asked to fill.
        return file.read(size)


def _regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
