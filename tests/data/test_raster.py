"""PNG and JPEG films."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from film_files import pattern
from polyclinic.data.flaw import Flaw
from polyclinic.data.raster import read_raster
from rss import growth_mib

GREY = pattern(bits=8)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_8_bits_are_divided_by_255() -> None:
    values = read_raster(saved(Image.fromarray(GREY)))
    np.testing.assert_allclose(values, GREY / 255, atol=1e-7)
    assert values.dtype == np.float32


def test_16_bits_are_divided_by_65535() -> None:
    pixels = pattern(bits=16)
    np.testing.assert_allclose(
        read_raster(saved(Image.fromarray(pixels))), pixels / 65535, atol=1e-7
    )


def test_1_bit_is_black_and_white() -> None:
    values = read_raster(saved(Image.fromarray(GREY > 100)))
    assert np.array_equal(values, (GREY > 100).astype(np.float32))


def test_a_palette_and_colour_become_luma() -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 0], colours[0, 1], colours[1, 2] = (255, 0, 0), (0, 255, 0), (255, 255, 255)
    image = Image.fromarray(colours)
    expected = colours @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(read_raster(saved(image)), expected, atol=1e-6)
    palette = saved(image.convert("P", palette=Image.Palette.ADAPTIVE))
    np.testing.assert_allclose(read_raster(palette), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_is_black(mode: str) -> None:
    image = Image.fromarray(GREY).convert(mode)
    opacity = np.full(GREY.shape, 255, np.uint8)
    opacity[:10] = 0
    image.putalpha(Image.fromarray(opacity))
    values = read_raster(saved(image))
    np.testing.assert_allclose(values[10:], GREY[10:] / 255, atol=1e-6)
    assert values[:10].max() == 0


def test_a_grey_jpeg_is_near_its_original() -> None:
    values = read_raster(saved(Image.fromarray(GREY), "JPEG", quality=95))
    assert np.abs(values - GREY / 255).max() < 12 / 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_exif_orientation_is_honoured(kind: str, orientation: int) -> None:
    # EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored picture lie when it is shown.
    shown = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: np.rot90(GREY, -1),
        7: np.rot90(GREY, 2).T,
        8: np.rot90(GREY),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {}
    values = read_raster(saved(Image.fromarray(GREY), kind, exif=exif, **options))
    assert values.shape == shown.shape
    assert np.abs(values - shown / 255).max() < 12 / 255


def test_several_frames_are_refused() -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    with pytest.raises(Flaw, match="multi_frame"):
        read_raster(saved(frames[0], save_all=True, append_images=frames[1:]))


def test_another_format_is_not_even_tried() -> None:
    with pytest.raises(Exception, match="cannot identify"):
        read_raster(saved(Image.fromarray(GREY), "BMP"))


def _bomb(path: Path, edge: int) -> None:
    """A PNG of edge x edge black pixels."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(edge + 1)) for _ in range(edge)) + packer.flush()
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        header = struct.pack(">LLBBBBB", edge, edge, 8, 0, 0, 0, 0)
        for name, body in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
            check = struct.pack(">L", zlib.crc32(name + body))
            file.write(struct.pack(">L", len(body)) + name + body + check)


@pytest.mark.parametrize("edge", [9000, 10_000, 14_000])
def test_b08_a_png_bomb_is_refused_before_it_is_inflated(tmp_path: Path, edge: int) -> None:
    path = tmp_path / "film.png"
    _bomb(path, edge)
    assert path.stat().st_size < 250_000
    said, growth = growth_mib("from polyclinic.data.film import read_film as read", path)
    assert said == "too_large"
    assert growth < 100
