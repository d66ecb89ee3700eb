"""Pseudonyms: the same patient gets the same one in every table and image, and only at this site.

Guarantees:
    * A pseudonym is a keyed hash (HMAC-SHA256): who has a list of patient ids but not the key can
      neither make nor recognise one.
    * The key is 32 random bytes of the operating system, made once, readable by its owner only. A
      key that others can read is refused, since it must be counted as known.
    * Ids are put into one spelling first, as everywhere (``polyclinic.data.identity``).
"""

import base64
import contextlib
import hashlib
import hmac
import os
import stat
import time
from pathlib import Path

from polyclinic.data.identity import as_id
from polyclinic.errors import SiteError

KEY_NAME = "import.key"
KEY_BYTES = 32
# 125 bits: two of a thousand million patients share a pseudonym with a chance below 1e-19.
LETTERS = 25


def load_key(storage: Path, *, create: bool = True) -> bytes:
    """The site's key, 32 bytes, drawn at the first call.

    Args:
        storage: the site's storage folder.
        create: False where pseudonyms of an earlier key exist, which another could not continue.

    Raises:
        SiteError: absent, cut short, a link, another user's, or readable by others.
    """
    path = storage / KEY_NAME
    try:
        if create:
            storage.mkdir(mode=0o700, parents=True, exist_ok=True)
            _draw(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise _refused("a key that can be read", os.strerror(error.errno or 0)) from None
    with os.fdopen(descriptor, "rb") as stream:
        _require_private(os.fstat(descriptor))
        for _ in range(20):
            key = stream.read(KEY_BYTES + 1)
            if len(key) == KEY_BYTES:
                return key
            time.sleep(0.05)  # another process is just writing it
            stream.seek(0)
    raise _refused(f"a key of {KEY_BYTES} bytes", f"{len(key)} bytes")


def _draw(path: Path) -> None:
    """Write a new key unless there is one."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            stream.write(os.urandom(KEY_BYTES))
            os.fsync(descriptor)


def _require_private(status: os.stat_result) -> None:
    """Pass a key that only its owner can read, and that is this user's.

    Raises:
        SiteError: it is not.
    """
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise _refused("a key file of the user who imports", "another user's, or no file")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise _refused("a key that only its owner can read (mode 0600)", "a wider mode")


def _refused(expected: str, got: str) -> SiteError:
    return SiteError(
        expected=expected,
        got=got,
        remedy=f"restore '{KEY_NAME}' in the site's storage, or import anew into another folder; "
        "a key that others could read counts as known",
    )


def keyed(key: bytes, purpose: str, text: str, letters: int = LETTERS) -> str:
    """A keyed hash in lower-case base32; hashes of two purposes cannot be told to be of one text.

    File names may hold bytes that are no text: they are hashed as they are.
    """
    raw = f"{purpose}\0{text}".encode("utf-8", "surrogateescape")
    digest = hmac.new(key, raw, hashlib.sha256).digest()
    return base64.b32encode(digest).decode().lower()[:letters]


def pseudonym(key: bytes, text: str) -> str:
    """The pseudonym of a patient id, ``p`` and 25 letters and digits; "" of a blank id."""
    known = as_id(text)
    return f"p{keyed(key, 'patient', known)}" if known else ""


def uid(key: bytes, original: str) -> str:
    """The DICOM UID that stands for another: ``2.25.`` and 122 keyed bits as a version-4 UUID."""
    raw = f"uid\0{original.strip(chr(0)).strip()}".encode("utf-8", "surrogateescape")
    digest = bytearray(hmac.new(key, raw, hashlib.sha256).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x40
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(digest, 'big')}"


def fingerprint(key: bytes) -> str:
    """What tells two keys apart and nothing about either."""
    return keyed(key, "fingerprint", "", 16)
