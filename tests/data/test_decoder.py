"""Compressed pixels, and a codec that may crash."""

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    MPEG2MPML,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from film_files import (
    BY_GDCM,
    HTJ2K_PIXELS,
    encoded,
    film,
    pattern,
)
from polyclinic.data.codec import PLUGINS, fragments, stream_size
from polyclinic.data.decoder import CODEC, DECODER, Decoder
from polyclinic.data.dicom import Opened, parse
from polyclinic.data.flaw import Flaw
from polyclinic.data.pixels import read_layout, stored_pixels
from polyclinic.errors import SiteError

LIMIT = 1 << 20
EXACT = [syntax for syntax in BY_GDCM if syntax != JPEGExtended12Bit]


def opened(syntax: UID, pixels: np.ndarray, bits: int = 12) -> Opened:
    return parse(encoded(film(pixels, bits), syntax), LIMIT)


def decoded(file: Opened) -> np.ndarray:
    return stored_pixels(file, read_layout(file.header, file.syntax))[0]


def refusal(file: Opened) -> str:
    with pytest.raises(Flaw) as flaw:
        decoded(file)
    return flaw.value.reason


def with_stream(file: Opened, stream: bytes) -> Opened:
    """The same file with another compressed stream."""
    value = encapsulate([stream])
    return Opened(file.header, file.syntax, memoryview(value), little_endian=True)


def stream_of(file: Opened) -> bytes:
    assert file.pixels is not None
    return next(generate_frames(bytes(file.pixels), number_of_frames=1))


@pytest.mark.parametrize("syntax", EXACT, ids=lambda uid: uid.name[:30])
def test_b06_lossless_syntaxes_decode_exactly(syntax: UID) -> None:
    assert np.array_equal(decoded(opened(syntax, pattern())), pattern())


def test_b06_htj2k_decodes_exactly() -> None:
    assert np.array_equal(decoded(opened(HTJ2KLossless, HTJ2K_PIXELS)), HTJ2K_PIXELS)


@pytest.mark.parametrize(
    ("syntax", "bits", "bound"),
    # JPEG-LS was told to lose 2 levels; JPEG of quality 95 loses a few of its 256.
    [(JPEGLSNearLossless, 12, 2), (JPEGBaseline8Bit, 8, 12), (JPEGExtended12Bit, 12, 2)],
)
def test_b06_lossy_syntaxes_decode_within_their_bound(syntax: UID, bits: int, bound: int) -> None:
    pixels = pattern(bits=bits)
    lost = np.abs(decoded(opened(syntax, pixels, bits)).astype(int) - pixels)
    assert lost.max() <= bound


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_b06_other_depths_decode_exactly(bits: int) -> None:
    for syntax in (RLELossless, JPEGLossless, JPEGLSLossless, JPEG2000Lossless):
        assert np.array_equal(decoded(opened(syntax, pattern(bits=bits), bits)), pattern(bits=bits))


@pytest.mark.parametrize("syntax", sorted(PLUGINS))
def test_b06_garbage_for_a_stream_is_refused(syntax: str) -> None:
    file = parse(encoded(film(pattern())), LIMIT)
    garbage = np.random.default_rng(3).bytes(700)
    file = Opened(file.header, syntax, memoryview(encapsulate([garbage])), little_endian=True)
    assert refusal(file) == "unreadable"


@pytest.mark.parametrize("syntax", [MPEG2MPML, "1.2.840.10008.1.2.4.95", "1.2.3.4"])
def test_b06_other_syntaxes_are_refused(syntax: str) -> None:
    file = opened(RLELossless, pattern())
    assert refusal(Opened(file.header, syntax, file.pixels, True)) == "unsupported_syntax"


def test_colour_of_12_bit_jpeg_is_refused() -> None:
    pixels = np.repeat(pattern()[..., None], 3, axis=2)
    file = opened(JPEGLossless, pixels)
    assert (
        refusal(Opened(file.header, JPEGExtended12Bit, file.pixels, True)) == "unsupported_syntax"
    )


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_stream_that_claims_another_size_is_refused_before_it_is_decoded(syntax: UID) -> None:
    file = opened(syntax, pattern())
    stream = bytearray(stream_of(file))
    size = (32).to_bytes(4, "big") if syntax == JPEG2000Lossless else (32).to_bytes(2, "big")
    place = stream.index(size + (40).to_bytes(len(size), "big")) if len(size) == 2 else 12
    # 60 000 rows would be 2.4 million pixels of a film that claims 1280.
    stream[place : place + len(size)] = (60_000).to_bytes(len(size), "big")
    assert refusal(with_stream(file, bytes(stream))) == "bad_header"


@pytest.mark.parametrize(
    "syntax", [JPEGLossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit]
)
def test_a_stream_that_is_cut_short_is_refused(syntax: UID) -> None:
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    file = opened(syntax, pattern(bits=bits), bits)
    stream = stream_of(file)
    assert refusal(with_stream(file, stream[: len(stream) * 3 // 4])) == "unreadable"


def test_runs_that_would_grow_far_beyond_the_film_are_refused() -> None:
    file = opened(RLELossless, pattern())
    # Two segments; a run of 128 zeros takes 2 bytes. 6 MB would grow to 384 MB.
    header = struct.pack("<16L", 2, 64, 64 + (3 << 20), *[0] * 13)
    assert refusal(with_stream(file, header + b"\x81\0" * (3 << 20))) == "bad_header"


def test_a_fragment_that_is_cut_short_is_refused() -> None:
    file = opened(RLELossless, pattern())
    assert file.pixels is not None
    assert refusal(Opened(file.header, file.syntax, file.pixels[:-200], True)) == "unreadable"


def test_a_frame_in_several_fragments_is_one_stream() -> None:
    file = opened(JPEG2000Lossless, pattern())
    value = encapsulate([stream_of(file)], fragments_per_frame=3)
    assert len(fragments(value)) == 3
    split = Opened(file.header, file.syntax, memoryview(value), True)
    assert np.array_equal(decoded(split), pattern())


def test_stream_sizes_are_read_from_their_headers() -> None:
    for syntax in (JPEGLossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit):
        bits = 8 if syntax == JPEGBaseline8Bit else 12
        assert stream_size(stream_of(opened(syntax, pattern(bits=bits), bits))) == (32, 40, 1)
    assert stream_size(b"\xff\xd8\xff\xd9") is None
    assert stream_size(b"") is None


# --- The process -----------------------------------------------------------------------------

ASKED = {"rows": 2, "columns": 3, "samples_per_pixel": 1}


def program(folder: Path, body: str) -> Path:
    """A program that says it is ready, reads one request and then does ``body``."""
    path = folder / "program.py"
    path.write_text(
        "import json, os, struct, sys, time\n"
        "out = sys.stdout.buffer\n"
        "out.write(b'ready'); out.flush()\n"
        "words, bulk = struct.unpack('>LQ', sys.stdin.buffer.read(12))\n"
        "sys.stdin.buffer.read(words + bulk)\n"
        "def say(told, pixels):\n"
        "    text = json.dumps(told).encode()\n"
        "    out.write(struct.pack('>LQ', len(text), len(pixels)) + text + pixels); out.flush()\n"
        + body
    )
    return path


@pytest.mark.parametrize(
    "body",
    [
        "os.abort()",
        "time.sleep(60)",
        "out.write(b'nonsense that is long enough'); out.flush(); time.sleep(60)",
        "say({'dtype': '|u1'}, bytes(1000))",
        "say([], b'')",
    ],
    ids=["crash", "hang", "nonsense", "too much", "no answer"],
)
def test_a_codec_that_fails_costs_one_film(tmp_path: Path, body: str) -> None:
    decoder = Decoder(program(tmp_path, body), seconds=1.0)
    for _ in range(2):  # the second film meets a new process
        with pytest.raises(Flaw) as flaw:
            decoder.decode(ASKED, b"pixels")
        assert flaw.value.reason == "unreadable"
    decoder.close()


@pytest.mark.parametrize(
    ("told", "pixels"),
    [
        ({"dtype": "<f8"}, 6),
        ({"dtype": "|O"}, 6),
        ({"dtype": "<u2"}, 6),
        ({"reason": "no such code", "got": "x" * 4000}, 0),
    ],
)
def test_answers_of_a_codec_are_not_believed(
    tmp_path: Path, told: dict[str, str], pixels: int
) -> None:
    decoder = Decoder(program(tmp_path, f"say({told!r}, bytes({pixels}))"))
    with pytest.raises(Flaw) as flaw:
        decoder.decode(ASKED, b"pixels")
    assert flaw.value.reason in {"unreadable", "bad_header"}
    assert len(flaw.value.got) <= 80
    decoder.close()


def test_a_codec_that_does_not_start_is_the_site_s_matter(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(1)")
    with pytest.raises(SiteError, match="did not start"):
        Decoder(broken).decode(ASKED, b"pixels")


def test_one_process_serves_films_that_come_one_by_one_and_ends_when_closed() -> None:
    file = opened(RLELossless, pattern())
    DECODER.close()
    decoded(file)
    (decoder,) = DECODER._free
    process = decoder._process
    assert process is not None
    decoded(file)
    assert decoder._process is process
    DECODER.close()
    assert process.poll() is not None
    assert np.array_equal(decoded(file), pattern())


def test_films_of_several_threads_are_decoded_by_as_many_processes() -> None:
    file = opened(JPEG2000Lossless, pattern())
    with ThreadPoolExecutor(3) as pool:
        films = list(pool.map(lambda _: decoded(file), range(12)))
    assert all(np.array_equal(film, pattern()) for film in films)
    assert 1 <= len(DECODER._free) <= 3
    DECODER.close()


def test_the_codec_s_process_imports_nothing_of_the_package() -> None:
    assert "polyclinic" not in "".join(
        line for line in CODEC.read_text().splitlines() if "import" in line.split("#")[0]
    )


def test_a_stream_that_crashes_gdcm_is_refused_and_the_next_film_is_read() -> None:
    # GDCM 3.2.6 aborts its process when the marker before the entropy-coded pixels is missing.
    file = opened(JPEGExtended12Bit, pattern())
    stream = stream_of(file).replace(b"\xff\xda", b"\x2e\xda", 1)
    assert refusal(with_stream(file, stream)) == "unreadable"
    assert np.array_equal(decoded(opened(RLELossless, pattern())), pattern())
