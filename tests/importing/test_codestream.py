"""Coded images lose their text and keep their pixels."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from polyclinic.importing.codestream import clean_jpeg, clean_jpeg2000, clean_png, clean_rle

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
WORD = b"KANARI"


def saved(kind: str, **options: object) -> bytes:
    """The picture in a file format."""
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, kind, **options)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """What a reader sees."""
    return np.asarray(Image.open(io.BytesIO(data)))


def exif(orientation: int) -> bytes:
    """EXIF with a name and an orientation."""
    made = Image.Exif()
    made[0x0112], made[0x9C9B], made[0x013B] = orientation, "KANARI", "KANARI"
    return made.tobytes()


@pytest.mark.parametrize("progressive", [False, True])
def test_b09_a_jpeg_loses_exif_comment_profile_and_trailer_and_no_pixel(progressive: bool) -> None:
    raw = (
        saved("JPEG", exif=exif(1), comment=WORD, icc_profile=WORD * 9, progressive=progressive)
        + WORD
    )
    assert raw.count(WORD) > 4
    clean = clean_jpeg(raw)
    assert WORD not in clean
    assert (decoded(clean) == decoded(raw)).all()
    assert clean_jpeg(clean) == clean


def test_a_thumbnail_within_the_jfif_mark_is_cut_off() -> None:
    raw = saved("JPEG")
    length = int.from_bytes(raw[4:6], "big")
    mark = raw[6:18] + b"\2\1" + WORD
    longer = raw[:4] + struct.pack(">H", len(mark) + 2) + mark + raw[4 + length :]
    assert WORD in longer
    assert clean_jpeg(longer) == clean_jpeg(raw)


@pytest.mark.parametrize("orientation", [3, 6, 2])
def test_a_jpeg_that_its_exif_turns_is_refused(orientation: int) -> None:
    raw = saved("JPEG", exif=exif(orientation))
    with pytest.raises(ValueError, match="orientation"):
        clean_jpeg(raw)
    assert (decoded(clean_jpeg(raw, turned="ignore")) == decoded(raw)).all()


def test_b09_a_png_loses_text_time_exif_and_trailer_and_no_pixel() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", "KANARI")
    info.add_itxt("Comment", "KANARI")
    info.add(b"tIME", b"KANARI!")
    raw = saved("PNG", pnginfo=info, exif=exif(1)) + WORD
    clean = clean_png(raw)
    assert raw.count(WORD) > 3
    assert WORD not in clean
    assert (decoded(clean) == PICTURE).all()


def test_a_png_with_a_damaged_or_unknown_chunk_is_refused() -> None:
    raw = bytearray(saved("PNG"))
    raw[20] ^= 1  # within IHDR
    with pytest.raises(ValueError, match="damaged"):
        clean_png(bytes(raw))
    body = b"VITL" + WORD
    unknown = struct.pack(">I", 6) + body + struct.pack(">I", zlib.crc32(body))
    whole = saved("PNG")
    with pytest.raises(ValueError, match="unknown"):
        clean_png(whole[:33] + unknown + whole[33:])


def test_b09_a_jpeg_2000_stream_loses_comments_and_trailer_and_no_pixel() -> None:
    raw = saved("JPEG2000", no_jp2=True, comment="KANARI", irreversible=False) + WORD
    assert raw.count(WORD) == 2
    clean = clean_jpeg2000(raw)
    assert WORD not in clean
    assert (decoded(clean) == PICTURE).all()


def test_a_jpeg_2000_file_of_boxes_is_refused() -> None:
    with pytest.raises(ValueError, match="code stream"):
        clean_jpeg2000(saved("JPEG2000"))


WHOLE = {
    clean_jpeg: saved("JPEG", comment=WORD),
    clean_png: saved("PNG"),
    clean_jpeg2000: saved("JPEG2000", no_jp2=True),
}


@pytest.mark.parametrize("clean", WHOLE)
@given(data=st.data())
def test_any_damage_is_refused_or_cleaned(clean, data) -> None:
    raw = bytearray(WHOLE[clean])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for damaged in (bytes(raw), bytes(raw[:cut])):
        with contextlib.suppress(ValueError):
            assert len(clean(damaged)) <= len(damaged) + 2


@pytest.mark.parametrize("marker", range(0xF0, 0xFE))
def test_b09_a_jpeg_keeps_no_segment_that_pixels_do_not_need(marker: int) -> None:
    whole = saved("JPEG")
    segment = struct.pack(">BBH", 0xFF, marker, 2 + len(WORD)) + WORD
    needed = marker in (0xF7, 0xF8)  # frame and parameters of JPEG-LS
    assert (WORD in clean_jpeg(whole[:2] + segment + whole[2:])) == needed


@pytest.mark.parametrize("marker", [0x30, 0x57, 0x63, 0x64, 0x6F, 0x7F])
def test_b09_a_jpeg_2000_stream_keeps_no_segment_that_pixels_do_not_need(marker: int) -> None:
    whole = saved("JPEG2000", no_jp2=True)
    segment = struct.pack(">BBH", 0xFF, marker, 2 + len(WORD)) + WORD
    place, tile = whole.index(b"\xff\x52"), whole.index(b"\xff\x93")
    clean = clean_jpeg2000(whole[:place] + segment + whole[place:])
    assert WORD not in clean
    assert (decoded(clean) == PICTURE).all()
    with pytest.raises(ValueError, match="tile"):
        clean_jpeg2000(whole[:tile] + segment + whole[tile:])


def rle(*segments: bytes) -> bytes:
    """A frame of segments with a word before, between and after them."""
    frame, places = b"", []
    for segment in segments:
        places.append(64 + len(frame) + len(WORD))
        frame += WORD + segment
    head = struct.pack("<16L", len(segments), *places, *[0] * (15 - len(segments)))
    return head + frame + WORD


def test_b09_an_rle_frame_keeps_its_runs_and_nothing_beside_them() -> None:
    # Four pixels of two bytes: a literal of four; a no-operation and a run of four.
    literal, run = b"\x03ABCD", b"\x80\xfdZ"
    clean = clean_rle(rle(literal, run), 4, 2)
    assert clean == struct.pack("<16L", 2, 64, 70, *[0] * 13) + literal + b"\0" + run + b"\0"


def test_an_rle_frame_whose_runs_end_early_is_refused() -> None:
    for planes, pixels in ((1, 4), (2, 5), (2, 1000)):
        with pytest.raises(ValueError, match=r"segment|runs"):
            clean_rle(rle(b"\x03ABCD", b"\xfdZ"), pixels, planes)
