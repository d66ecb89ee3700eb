"""A site folder belongs to one key: pseudonyms of two keys in one cohort would be two patients."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from polyclinic.errors import DataError, SiteError
from polyclinic.importing.pseudonym import KEY_NAME, fingerprint, load_key
from polyclinic.storage import write_atomic

MARKER = "import.json"
MANIFEST = "manifest.csv"
VERSION = 1


@contextlib.contextmanager
def claimed(out: Path, storage: Path) -> Iterator[bytes]:
    """The key of a site folder, held so that no second import writes there meanwhile.

    Args:
        out: the site folder; made when absent.
        storage: folder of the key.

    Raises:
        DataError: a folder with content that no import made.
        SiteError: made by another key, or another import is at work.
    """
    marker = out / MARKER
    made = _made_by(marker)
    # Slides may have been imported before: then the key is there, but no manifest of an import.
    known = (storage / KEY_NAME).exists() and not (out / MANIFEST).exists()
    if not made and not known and out.exists() and _holds_more(out, storage):
        raise DataError(
            expected="a folder that is empty, not there yet, or made by an earlier import",
            got="one with other content",
            remedy="name another folder",
        )
    if not made:
        with contextlib.suppress(OSError):  # what is wrong with it, the key's own error says
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = load_key(storage, create=not made)
    if made and made != fingerprint(key):
        raise SiteError(
            expected="the key that made this site folder",
            got="another one",
            remedy="name the storage that holds its key, or import into another folder",
        )
    with _alone(storage):
        if not made:
            content = {"version": VERSION, "key": fingerprint(key)}
            write_atomic(marker, json.dumps(content, indent=2).encode() + b"\n")
        yield key


def require_apart(folder: Path, *places: Path) -> None:
    """Refuse to write into the folder that is imported, or around it.

    Raises:
        DataError: one lies in the other, links resolved.
    """
    source = folder.resolve()
    for place in places:
        target = place.resolve()
        if target.is_relative_to(source) or source.is_relative_to(target):
            raise DataError(
                expected="a site folder apart from the folder that is imported",
                got="one inside the other",
                remedy="name another folder",
            )


def _made_by(marker: Path) -> str:
    """Fingerprint of the key that made a site folder; "" when none did.

    Raises:
        SiteError: the marker is damaged.
    """
    if not marker.is_file():
        return ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(marker.read_bytes())
        if content["version"] == VERSION:
            return str(content["key"])
    raise SiteError(
        expected=f"'{MARKER}' as an import wrote it",
        got="another content",
        remedy="import into another folder",
    )


def _holds_more(out: Path, storage: Path) -> bool:
    """Whether a folder holds anything but its storage."""
    try:
        return any(p.resolve() != storage.resolve() for p in out.iterdir())
    except OSError as error:
        raise DataError(
            expected="a folder that can be read and written",
            got=os.strerror(error.errno or 0),
            remedy="name another folder",
        ) from None


@contextlib.contextmanager
def _alone(storage: Path) -> Iterator[None]:
    """Hold the lock of a storage; the system frees it when the process ends, however it ends."""
    descriptor = os.open(storage / "import.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SiteError(
            expected="one import at a time",
            got="another one at work",
            remedy="wait until it has ended",
        ) from None
    finally:
        os.close(descriptor)
