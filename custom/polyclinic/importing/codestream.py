"""JPEG, JPEG-LS, JPEG 2000 and PNG without the places that hold text; pixels stay bit for bit.

A coded image is a chain of segments. Those that decoding needs are copied; comments, EXIF, colour
profiles, thumbnails and whatever follows the end are not. The coded pixels themselves are copied
byte by byte: nothing is compressed anew.

Every function raises ``ValueError`` on a chain that is broken: what cannot be followed to its end
cannot be cleaned. The message holds no byte of the file.
"""

import re
import struct
import zlib

PNG_MARK = b"\x89PNG\r\n\x1a\n"
JPEG_MARK = b"\xff\xd8\xff"
J2K_MARK = b"\xff\x4f\xff\x51"
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"sBIT", b"gAMA", b"IDAT", b"IEND"})
_EOI, _SOS = 0xD9, 0xDA
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
# A marker that is no restart; in coded pixels 0xFF is followed by less than 0x80.
_NEXT = re.compile(b"\xff[\x80-\xcf\xd8-\xfe]")
_ORIENTATION = 0x0112
# Frames, tables, restarts and scans, and the two of JPEG-LS; what else there is carries no pixel.
_JPEG_KEPT = frozenset({*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xF7, 0xF8}) - {0xC8}
# What a JPEG 2000 or HTJ2K decoder needs of the main header, and of a tile's.
_J2K_KEPT = frozenset({0x50, 0x51, 0x52, 0x53, 0x55, 0x56, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60})
_TILE_KEPT = frozenset({0x52, 0x53, 0x58, 0x5C, 0x5D, 0x5E, 0x5F, 0x61})
_CORE = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12), 0xE8: (b"mrfx", 5)}


def clean_jpeg(data: bytes, *, turned: str = "refuse") -> bytes:
    """A JPEG or JPEG-LS stream with no application data, comment or trailer.

    What decides about colours is kept: the JFIF and Adobe marks, cut to their fixed length, and
    the colour transform of JPEG-LS.

    Args:
        turned: ``refuse`` an image that its EXIF says to turn, since without it the picture would
            stand on its side, or be mirrored; ``ignore`` inside DICOM, where EXIF says nothing.
    """
    _expect(data[:2] == b"\xff\xd8", "no start of image")
    out, at, scanned = [data[:2]], 2, False
    while True:
        marker, at = _marker(data, at)
        if marker == _EOI:
            _expect(scanned, "no scan")
            return b"".join([*out, b"\xff\xd9"])
        if marker in _ALONE:
            continue
        length = _length(data, at)
        body = data[at + 2 : at + length]
        at += length
        if marker == 0xE1 and turned == "refuse":
            _expect(not _is_turned(body), "an EXIF orientation other than upright")
        kept = _segment(marker, body)
        if kept is not None:
            out.append(struct.pack(">BBH", 0xFF, marker, len(kept) + 2) + kept)
        if marker == _SOS:
            end = _scan_end(data, at)
            out.append(data[at:end])
            at, scanned = end, True


def _segment(marker: int, body: bytes) -> bytes | None:
    """What is kept of a segment; None for nothing."""
    if marker in _CORE:
        mark, size = _CORE[marker]
        if not body.startswith(mark) or len(body) < size:
            return None
        # Bytes 12 and 13 of JFIF are the size of the thumbnail that would follow.
        return body[:12] + b"\0\0" if marker == 0xE0 else body[:size]
    return body if marker in _JPEG_KEPT else None


def _marker(data: bytes, at: int) -> tuple[int, int]:
    """The marker at a place and where it ends; fill bytes are skipped."""
    _expect(at + 1 < len(data) and data[at] == 0xFF, "no marker where one is due")
    while at < len(data) and data[at] == 0xFF:
        at += 1
    _expect(at < len(data), "an end within a marker")
    return data[at], at + 1


def _length(data: bytes, at: int) -> int:
    """Length of the segment that begins here, its own two bytes included."""
    _expect(at + 2 <= len(data), "an end within a segment")
    length = int.from_bytes(data[at : at + 2], "big")
    _expect(length >= 2 and at + length <= len(data), "a segment beyond the end")
    return length


def _scan_end(data: bytes, at: int) -> int:
    """Where the coded pixels that begin here end: at the next marker that is no restart."""
    end = _NEXT.search(data, at)
    if end is None:
        raise ValueError("coded pixels without an end")
    return end.start()


def _is_turned(exif: bytes) -> bool:
    """Whether EXIF says to turn or mirror the image; damaged EXIF says nothing."""
    if not exif.startswith(b"Exif\0\0"):
        return False
    tiff = exif[6:]
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for i in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * i)
            if tag == _ORIENTATION:
                return bool(value not in (0, 1))
    except struct.error:
        return False
    return False


def clean_jpeg2000(data: bytes) -> bytes:
    """A JPEG 2000 or HTJ2K code stream with no comment and no trailer."""
    _expect(data[:4] == J2K_MARK, "no JPEG 2000 code stream")
    out, at = [data[:2]], 2
    while True:
        marker, at = _marker(data, at)
        if marker == 0x90:
            return b"".join([*out, *_tiles(data, at - 2)])
        length = _length(data, at)
        if marker in _J2K_KEPT:
            out.append(data[at - 2 : at + length])
        at += length


def _tiles(data: bytes, at: int) -> list[bytes]:
    """The tile parts from here to the end of the code stream, with the end."""
    out = []
    while data[at : at + 2] == b"\xff\x90":
        _expect(at + 12 <= len(data), "an end within a tile")
        size = int.from_bytes(data[at + 6 : at + 10], "big")
        end = at + size if size else data.rfind(b"\xff\xd9")
        _expect(at + 14 <= end <= len(data), "a tile beyond the end")
        inner = at + 12
        while data[inner : inner + 2] != b"\xff\x93":
            _expect(inner + 2 < end, "a tile without data")
            _expect(data[inner + 1] in _TILE_KEPT, "a segment within a tile that no pixel needs")
            inner += 2 + _length(data, inner + 2)
        out.append(data[at:end])
        at = end
    _expect(data[at : at + 2] == b"\xff\xd9", "no end of code stream")
    return [*out, b"\xff\xd9"]


def clean_rle(data: bytes, pixels: int, planes: int) -> bytes:
    """A DICOM RLE frame with nothing between, before or after its runs.  PS3.5 Annex G.

    Args:
        pixels: of the image, which each plane holds.
        planes: bytes of a pixel, one segment for each.
    """
    _expect(len(data) >= 64, "no RLE header")
    count, *offsets = struct.unpack_from("<16L", data)
    _expect(count == planes <= 15, "another number of segments")
    segments = []
    for start, end in zip(offsets, [*offsets[1:count], len(data)], strict=False):
        _expect(64 <= start <= end <= len(data), "a segment beyond the end")
        stop = _runs_end(data, start, end, pixels)
        segments.append(data[start:stop] + b"\0" * ((stop - start) % 2))
    places = [64 + sum(map(len, segments[:i])) for i in range(count)] + [0] * (15 - count)
    return struct.pack("<16L", count, *places) + b"".join(segments)


def _runs_end(data: bytes, at: int, end: int, pixels: int) -> int:
    """Where the runs that make so many bytes end."""
    made = 0
    while made < pixels:
        _expect(at < end, "runs that are cut short")
        head = data[at]
        literal = head < 128
        made += head + 1 if literal else (257 - head) % 129
        at += head + 2 if literal else 1 + (head > 128)
    _expect(at <= end, "runs that are cut short")
    return at


def clean_png(data: bytes) -> bytes:
    """A PNG with the chunks that pixels need; text, time, EXIF, profiles and trailers are left out.

    The chain of chunks and their checksums must hold to the end.
    """
    _expect(data[:8] == PNG_MARK, "no PNG")
    out, at = [PNG_MARK], 8
    while True:
        _expect(at + 12 <= len(data), "an end within a chunk")
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        _expect(end <= len(data), "a chunk beyond the end")
        name = data[at + 4 : at + 8]
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if name in _PNG_KEPT:
            _expect(sound, "a damaged chunk")
            out.append(data[at:end])
        else:
            # Capital first letter: the decoder must know it, and this one does not.
            _expect(name[:1].islower(), "an unknown chunk that pixels need")
        if name == b"IEND":
            _expect(length == 0, "content after the end")
            return b"".join(out)
        at = end


def _expect(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)
