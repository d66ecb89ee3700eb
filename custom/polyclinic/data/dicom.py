"""A DICOM file as header and undecoded pixels; every size is bounded before memory is taken.

pydicom reads the elements. Around it lie the bounds that it lacks: a deflated file is inflated up
to a limit, a value may not be longer than the file, and a file that ends inside an element is
refused (pydicom returns what it has got so far).
"""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from polyclinic.data.flaw import Flaw, guarded, read_bytes
from polyclinic.data.quiet import quiet

MAX_FILE_BYTES = 256 << 20
MAX_INFLATED_BYTES = 64 << 20
# Everything before the pixels; private blocks and icons of real films stay below 1 MiB.
MAX_HEADER_BYTES = 8 << 20
# Of elements and items, one or more each: eight million bytes of empty ones took half a minute.
MAX_READS = 200_000
# Read first: nearly every header ends here, and shared folders are slow.
HEAD_BYTES = 64 << 10
PREAMBLE = 132
UNDEFINED = 0xFFFFFFFF

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})
# Elements 8, 9 and 10 of this group are float, double and integer pixels.
PIXEL_GROUP = 0x7FE0
PIXEL_DATA = 0x7FE00010
# Value representations whose explicit form has a length of four bytes.
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN"})


@dataclass(frozen=True)
class Opened:
    """One file, parsed up to its pixels.

    Attributes:
        syntax: UID of the transfer syntax.
        pixels: value of Pixel Data as it lies in the file; ``None`` without one.
        swapped: 8-bit pixels that lie in big-endian words of 16 bits.
    """

    header: Dataset
    syntax: str
    pixels: memoryview | None
    little_endian: bool
    swapped: bool = False


class _Bytes(io.BytesIO):
    """Bytes that bound the number of reads, and count those which got less than they asked for."""

    short = reads = 0
    ragged = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads += 1
        if self.reads > MAX_READS:
            raise Flaw("too_large", "more elements than a film has")
        if size is not None and 0 <= len(data) < size:
            self.short += 1
            self.ragged |= bool(data) or size != 8
        return data


def read_header(path: Path) -> Dataset:
    """All elements before the pixels; values are converted when they are asked for.

    Ask through ``header_text``: a broken value raises, warns and logs inside pydicom.

    Raises:
        DataRejected: no DICOM file, cut short, or larger than the bounds.
    """
    return guarded(path, "a DICOM file", lambda: _header(path))


def header_text(header: Dataset, keyword: str) -> str:
    """The text of one element, several values joined by a backslash; "" if absent or broken."""
    with quiet():
        try:
            value = header.get(keyword)
            if value is None or isinstance(value, bytes | Sequence):
                return ""
            parts = [str(part) for part in value] if isinstance(value, MultiValue) else [str(value)]
        except Exception:
            # A value that pydicom cannot convert is a value that is absent.
            return ""
    return "\\".join(part.strip(" \0") for part in parts)


def says_burned_in(header: Dataset) -> bool:
    """Whether the header says, in whatever case, that text is burned into the pixels."""
    return "YES" in header_text(header, "BurnedInAnnotation").upper().split("\\")


def _header(path: Path) -> Dataset:
    if not path.is_file():
        raise Flaw("missing_file" if not path.exists() else "unreadable", "no regular file")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if len(head) == HEAD_BYTES:
            opened = _beginning(head)
            if opened is not None and opened.pixels is not None:
                return opened.header
            # The header is longer than what was read, or broken; the whole of it will tell.
            head += file.read(MAX_HEADER_BYTES)
        more = bool(file.read(1))
    with quiet():
        opened = parse(head, MAX_HEADER_BYTES, whole=False)
    if opened.pixels is None and more:
        raise Flaw("too_large", "a header of more than 8 MiB")
    return opened.header


def _beginning(head: bytes) -> Opened | None:
    """The first bytes of a file, if they can be read alone."""
    try:
        with quiet():
            return parse(head, MAX_HEADER_BYTES, whole=False)
    except Exception:
        # Cut by us, or broken: not known yet.
        return None


def open_dicom(path: Path) -> Opened:
    """Header and undecoded pixels of a whole file.

    Raises:
        Flaw: with a reason code.
        Exception: whatever pydicom raises on damaged elements.
    """
    data = read_bytes(path, MAX_FILE_BYTES)
    with quiet():
        return parse(data, MAX_INFLATED_BYTES)


def parse(data: bytes, max_inflated: int, *, whole: bool = True) -> Opened:
    """Header and pixels of a file in memory.

    Args:
        max_inflated: bytes that a deflated file is inflated to.
        whole: refuse a file that would grow larger; else leave the rest out, which is enough
            for its header.

    Raises:
        Flaw: with a reason code.
        Exception: whatever pydicom raises on damaged elements.
    """
    if data[128:PREAMBLE] != b"DICM":
        raise Flaw("not_an_image", "no DICOM preamble")
    stream = _Bytes(data)
    stream.seek(PREAMBLE)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID", "") or "").strip(" \0")
    if not syntax:
        raise Flaw("bad_header", "no transfer syntax")
    if syntax == DEFLATED:
        data = _inflated(data[stream.tell() :], max_inflated, whole)
        stream = _Bytes(data)
    little = syntax != EXPLICIT_BIG
    stops = _Stops(stream, len(data))
    stream.short, stream.ragged = 0, False
    header = read_dataset(stream, syntax == IMPLICIT_LITTLE, little, stop_when=stops)
    header.file_meta = meta
    if not stops.at_pixels:
        # A whole file ends with exactly one empty read, where the next element would start.
        if stream.short > 1 or stream.ragged:
            raise Flaw("unreadable", "it ends inside an element")
        return Opened(header, syntax, None, little)
    implicit = bool(header.original_encoding[0])
    return _with_pixels(Opened(header, syntax, None, little), data, stream.tell(), implicit)


class _Stops:
    """Ends reading at the pixels, and refuses a value longer than what is left of the file."""

    def __init__(self, stream: io.BytesIO, size: int) -> None:
        self.stream, self.size, self.at_pixels = stream, size, False

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        position = self.stream.tell()
        if position > MAX_HEADER_BYTES:
            raise Flaw("too_large", "a header of more than 8 MiB")
        if tag >> 16 == PIXEL_GROUP and tag & 0xFFFF >= 8:
            self.at_pixels = True
            return True
        if length != UNDEFINED and position + length > self.size:
            raise Flaw("unreadable", "an element is longer than the file")
        return False


def _with_pixels(opened: Opened, data: bytes, start: int, implicit: bool) -> Opened:
    """The same file with the value of its Pixel Data, which begins with its tag at ``start``."""
    order = "<" if opened.little_endian else ">"
    group, element = struct.unpack_from(f"{order}HH", data, start)
    if group << 16 | element != PIXEL_DATA:
        raise Flaw("bad_header", "pixels of floating point")
    vr = b"OW" if implicit else data[start + 4 : start + 6]
    if not implicit and vr not in LONG_VRS:
        raise Flaw("bad_header", "pixels of another value representation")
    place = start + (4 if implicit else 8)
    (length,) = struct.unpack_from(f"{order}L", data, place)
    if (length == UNDEFINED) == (opened.syntax in NATIVE):
        raise Flaw("bad_header", "pixels that do not fit the transfer syntax")
    rest = memoryview(data)[place + 4 :]
    pixels = rest if length == UNDEFINED else rest[:length]
    swapped = not opened.little_endian and vr == b"OW"
    return Opened(opened.header, opened.syntax, pixels, opened.little_endian, swapped)


def _inflated(data: bytes, limit: int, whole: bool) -> bytes:
    """Deflated elements, inflated to at most one byte more than ``limit``.

    Raises:
        Flaw: ``too_large``, when the whole was asked for.
    """
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit + 1)
    if whole and len(inflated) > limit:
        raise Flaw("too_large", f"more than {limit >> 20} MiB when inflated")
    return inflated
