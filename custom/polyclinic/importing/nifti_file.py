"""A NIfTI file without its text fields: geometry and voxels stay, whatever names a person goes.

The header is NIfTI's own (348 or 540 bytes); voxels are copied byte by byte. Text fields, unused
fields and header extensions are zeroed, what follows the voxels is cut off, and a compressed file
is compressed anew without the name and time that gzip keeps.
"""

import contextlib
import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from polyclinic.data.flaw import Flaw

MAX_BYTES = 2 << 30
MAX_EXTENSIONS = 64 << 20
CHUNK = 1 << 20
# Offset and length of fields that are text or without use, by header size.
_TEXT = {
    348: ((4, 10), (14, 18), (32, 4), (36, 2), (38, 1), (140, 8), (148, 80), (228, 24), (328, 16)),
    540: ((240, 80), (320, 24), (508, 16), (525, 15)),
}
_MARKS = {348: (344, b"n+1\0"), 540: (4, b"n+2\0\r\n\x1a\n")}


def clean_nifti(source: BinaryIO, target: BinaryIO, *, compressed: bool) -> None:
    """Copy a NIfTI file from one stream to another, de-identified.

    Raises:
        Flaw: no NIfTI file, cut short, or larger than ``MAX_BYTES``.
    """
    with contextlib.ExitStack() as stack:
        reader: BinaryIO = source
        writer: BinaryIO = target
        if compressed:
            reader = stack.enter_context(gzip.GzipFile(fileobj=source))  # type: ignore[assignment]
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=target, mtime=0)
            writer = stack.enter_context(packed)  # type: ignore[assignment]
        try:
            for chunk in _cleaned(reader):
                writer.write(chunk)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise Flaw("unreadable", "compressed data that is damaged") from None


def _cleaned(source: BinaryIO) -> Iterator[bytes]:
    """Header, emptied extensions and voxels."""
    first = _exactly(source, 348)
    order, size = _order(first)
    header = bytearray(first + _exactly(source, size - 348))
    start, voxels = _extent(bytes(header), order, size)
    for at, length in _TEXT[size]:
        header[at : at + length] = b"\0" * length
    if size == 348:
        header[38:39] = b"r"  # some readers insist on it
    yield bytes(header)
    _exactly(source, start - size)
    yield b"\0" * (start - size)
    while voxels:
        chunk = _exactly(source, min(CHUNK, voxels))
        voxels -= len(chunk)
        yield chunk


def _order(header: bytes) -> tuple[str, int]:
    """Byte order and size of the header.

    Raises:
        Flaw: neither NIfTI-1 nor NIfTI-2 in one file.
    """
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", header)
        if size in _MARKS:
            at, mark = _MARKS[size]
            if header[at : at + len(mark)] == mark:
                return order, size
    raise Flaw("unreadable", "no NIfTI file of one part")


def _extent(header: bytes, order: str, size: int) -> tuple[int, int]:
    """Where the voxels begin, and how many bytes they are.

    Raises:
        Flaw: the header contradicts itself, or claims more than ``MAX_BYTES``.
    """
    if size == 348:
        shape = struct.unpack_from(order + "8h", header, 40)
        (bits,) = struct.unpack_from(order + "h", header, 72)
        start = struct.unpack_from(order + "f", header, 108)[0]
    else:
        shape = struct.unpack_from(order + "8q", header, 16)
        (bits,) = struct.unpack_from(order + "h", header, 14)
        (start,) = struct.unpack_from(order + "q", header, 168)
    if not 1 <= shape[0] <= 7 or bits <= 0 or not size + 4 <= start <= size + MAX_EXTENSIONS:
        raise Flaw("bad_header", "sizes that cannot be")
    count = 1
    for length in shape[1 : shape[0] + 1]:
        if length < 1:
            raise Flaw("bad_header", "a side without length")
        count *= length
    if count * bits > 8 * MAX_BYTES:
        raise Flaw("too_large", "more voxels than are taken over")
    return int(start), (count * bits + 7) // 8


def _exactly(source: BinaryIO, count: int) -> bytes:
    """So many bytes.

    Raises:
        Flaw: there are fewer.
    """
    out = io.BytesIO()
    while out.tell() < count:
        part = source.read(min(CHUNK, count - out.tell()))
        if not part:
            raise Flaw("unreadable", "an end before the last voxel")
        out.write(part)
    return out.getvalue()
