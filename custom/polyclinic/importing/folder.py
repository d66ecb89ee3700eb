"""The files below a folder, by pattern and content, without leaving the folder.

Symbolic links are neither followed nor read, whether they are files, folders, or put in place of
one while the import runs (the last step of each path is opened with ``O_NOFOLLOW``).
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.data.flaw import Flaw
from polyclinic.importing.codestream import JPEG_MARK, PNG_MARK
from polyclinic.importing.plan import Content

# An index of a DICOM disk, which repeats names and holds no image.
_INDEX = "DICOMDIR"


@dataclass(frozen=True)
class Found:
    """One regular file.

    Attributes:
        name: path within the folder; it may hold a patient's name, and is never shown or written.
        stamp: size and times of change, which tell whether it is still the same file; an export
            may set the one time, nobody the other.
    """

    path: Path = field(repr=False)
    name: str = field(repr=False)
    stamp: str


def walk(root: Path) -> Iterator[Found]:
    """Every regular file below a folder, by name; links, hidden and special files are left out.

    A folder that may not be read holds no file for this user.
    """
    for place, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            try:
                status = path.lstat()
            except OSError:
                continue  # gone since the folder was listed
            if name.startswith(".") or name.upper() == _INDEX or not stat.S_ISREG(status.st_mode):
                continue
            inner = path.relative_to(root).as_posix()
            stamp = f"{status.st_size}/{status.st_mtime_ns}/{status.st_ctime_ns}"
            yield Found(path, inner, stamp)


def matcher(glob: str) -> re.Pattern[str]:
    """A pattern over paths: ``*`` and ``?`` within a step, ``**`` for any number of folders."""
    steps = []
    for step in glob.split("/"):
        if step == "**":
            steps.append("(?:[^/]+/)*")
        else:
            plain = re.escape(step).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
            steps.append(plain + "/")
    whole = "".join(steps)
    if glob.endswith("**"):
        return re.compile(whole + "[^/]+", re.DOTALL)
    return re.compile(whole.removesuffix("/"), re.DOTALL)


def opened(path: Path) -> int:
    """A descriptor of a regular file that is no link.

    Raises:
        Flaw: it is something else by now.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Flaw("unreadable", "not a regular file")
    return descriptor


def content_of(path: Path) -> Content | None:
    """What a file is, by its first bytes; None for anything else or unreadable."""
    try:
        with os.fdopen(opened(path), "rb") as stream:
            head = stream.read(352)
    except (OSError, Flaw):
        return None
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(PNG_MARK):
        return "png"
    if head.startswith(JPEG_MARK):
        return "jpeg"
    zipped = head.startswith(b"\x1f\x8b") and path.name.lower().endswith(".nii.gz")
    plain = head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"
    return "nifti" if zipped or plain else None


def whole(path: Path, limit: int) -> bytes:
    """All bytes of a file.

    Raises:
        Flaw: more than ``limit``, or no regular file.
        OSError: it cannot be opened.
    """
    with os.fdopen(opened(path), "rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise Flaw("too_large", f"more than {limit >> 20} MiB")
    return data
