"""The program of the process that decodes compressed pixels: one frame in, one array out.

It imports nothing of this package and is started by its path (``decoder.py``). Codecs are C code
that damaged or hostile pixels can crash; here a crash costs one file. Only the numbers that
describe the pixels come in, no element of the header; nothing is written but the answer.

Request   length of the JSON (4 bytes, big-endian), of the payload (8), JSON, payload: the
          encapsulated value of Pixel Data
Answer    the same frame: JSON ``{"dtype", "shape", "photometric"}`` with the pixels in C order,
          or ``{"reason", "got"}`` with none
"""

import json
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

import gdcm  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from pydicom.pixels import get_decoder
from pydicom.uid import UID

FRAME = struct.Struct(">LQ")
# Of this process, with the interpreter; 40 million pixels of a JPEG 2000 film need 1 GiB.
MAX_ADDRESS_SPACE = 4 << 30

# Which library decodes a transfer syntax; one for each, so that all hospitals see the same pixels.
_JPEG = "1.2.840.10008.1.2.4."
PLUGINS = {
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    f"{_JPEG}50": "pillow",  # JPEG baseline
    f"{_JPEG}51": "pillow",  # JPEG extended; 12 bits go to GDCM
    f"{_JPEG}57": "gdcm",  # JPEG lossless
    f"{_JPEG}70": "gdcm",  # JPEG lossless, first-order prediction
    f"{_JPEG}80": "pyjpegls",  # JPEG-LS lossless
    f"{_JPEG}81": "pyjpegls",  # JPEG-LS near-lossless
    f"{_JPEG}90": "pylibjpeg",  # JPEG 2000 lossless
    f"{_JPEG}91": "pylibjpeg",  # JPEG 2000
    f"{_JPEG}201": "pylibjpeg",  # HTJ2K lossless
    f"{_JPEG}202": "pylibjpeg",  # HTJ2K lossless, RPCL
    f"{_JPEG}203": "pylibjpeg",  # HTJ2K
}
RLE, EXTENDED = "1.2.840.10008.1.2.5", f"{_JPEG}51"
ITEM, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


class Refused(Exception):
    """The pixels are refused; args: reason code, words of ours."""


def fragments(value: bytes) -> list[bytes]:
    """The fragments of an encapsulated value, after its offset table.

    Raises:
        Refused: an item is no item, or ends beyond the value.
    """
    found, place = [], 0
    while place < len(value) and value[place : place + 4] != SEQUENCE_END:
        if value[place : place + 4] != ITEM or place + 8 > len(value):
            raise Refused("unreadable", "a fragment without an item tag")
        (length,) = struct.unpack_from("<L", value, place + 4)
        place += 8 + length
        if place > len(value):
            raise Refused("unreadable", "a fragment that is cut short")
        found.append(value[place - length : place])
    if len(found) < 2:
        raise Refused("no_pixels", "no fragment")
    return found[1:]


def stream_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 stream claims, or ``None``.

    Sources: ITU-T T.81 B.2.2 and T.87 C.2.2 (SOF), T.800 A.5.1 (SIZ), which T.814 shares.
    """
    if stream[:4] == b"\xff\x4f\xff\x51" and len(stream) >= 42:
        width, height, left, top = struct.unpack_from(">4L", stream, 8)
        return height - top, width - left, struct.unpack_from(">H", stream, 40)[0]
    place = 2
    while stream[:2] == b"\xff\xd8" and place + 10 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        # SOF0-SOF15 without the tables DHT, JPG and DAC, and SOF55 of JPEG-LS.
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns, components = struct.unpack_from(">HHB", stream, place + 5)
            return rows, columns, components
        place += 2 + struct.unpack_from(">H", stream, place + 2)[0]
    return None


def decode(asked: dict[str, Any], value: bytes) -> tuple[npt.NDArray[Any], str]:
    """The only frame of an encapsulated value as integers, and what its samples mean.

    Raises:
        Refused: with a reason code.
        Exception: whatever the codec raises.
    """
    syntax = asked["syntax"]
    parts = fragments(value)
    samples = asked["rows"] * asked["columns"] * asked["samples_per_pixel"]
    if syntax == RLE and sum(map(len, parts)) > 2 * samples * asked["bits_allocated"] // 8 + 128:
        # Runs grow to 64 times their size, and no writer makes a film longer than it was.
        raise Refused("bad_header", "more runs than the film has pixels")
    if syntax != RLE:
        stream = b"".join(parts)
        size = stream_size(stream)
        if size is None:
            raise Refused("unreadable", "no size in the compressed stream")
        if size != (asked["rows"], asked["columns"], asked["samples_per_pixel"]):
            # The codec allocates what the stream claims, whatever the header says.
            raise Refused("bad_header", "a compressed stream of another size")
        if b"\xff\xd9" not in stream[-64:]:
            # Codecs fill what is missing with grey.
            raise Refused("unreadable", "a compressed stream that does not end")
        if syntax == EXTENDED and asked["bits_stored"] > 8:
            return twelve_bits(stream, asked), asked["photometric_interpretation"]
    options = {key: asked[key] for key in asked if key != "syntax"}
    array, meta = get_decoder(syntax).as_array(
        value,
        index=0,
        raw=True,
        decoding_plugin=PLUGINS[syntax],
        transfer_syntax_uid=UID(syntax),
        number_of_frames=1,
        pixel_keyword="PixelData",
        pixel_vr="OB",
        **options,
    )
    return array, str(meta["photometric_interpretation"])


def twelve_bits(stream: bytes, asked: dict[str, Any]) -> npt.NDArray[Any]:
    """Grey pixels of a JPEG stream of 9 to 12 bits, (rows, columns).

    Pillow cannot, and pydicom does not let GDCM, which can: it gives pydicom's reference values.
    """
    if asked["samples_per_pixel"] != 1 or asked["pixel_representation"] != 0:
        raise Refused("unsupported_syntax", "JPEG extended of 12 bits in colour or signed")
    fragment, parts = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(stream)
    parts.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(parts.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((asked["columns"], asked["rows"], 1))
    image.SetDataElement(element)
    meaning = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(meaning))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(EXTENDED)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM gives its bytes as a string.
    decoded = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(decoded, "<u2").reshape(asked["rows"], asked["columns"])


def answer(asked: dict[str, Any], value: bytes) -> tuple[dict[str, Any], bytes]:
    """What is sent back for a request."""
    try:
        array, photometric = decode(asked, value)
    except Refused as refused:
        return {"reason": refused.args[0], "got": refused.args[1]}, b""
    except Exception as error:
        return {"reason": "unreadable", "got": f"{type(error).__name__} of a codec"}, b""
    array = np.ascontiguousarray(array)
    told = {"dtype": array.dtype.str, "shape": array.shape, "photometric": photometric}
    return told, array.tobytes()


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until the source ends."""
    while head := source.read(FRAME.size):
        words, bulk = FRAME.unpack(head)
        asked, value = json.loads(source.read(words)), source.read(bulk)
        told, pixels = answer(asked, value)
        text = json.dumps(told).encode()
        sink.write(FRAME.pack(len(text), len(pixels)) + text)
        sink.write(pixels)
        sink.flush()


def main() -> None:
    """Bound this process, keep the codecs' own words off its output, and serve."""
    if sys.platform == "linux":  # other kernels refuse or ignore it
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        allowed = MAX_ADDRESS_SPACE if hard == resource.RLIM_INFINITY else hard
        allowed = min(allowed, MAX_ADDRESS_SPACE)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    # A crash must not leave a patient's film on the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    sink.write(b"ready")
    sink.flush()
    serve(source, sink)


if __name__ == "__main__":
    main()
