"""The second way to a slide's pixels shows what OpenSlide shows, or leaves it to OpenSlide."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from polyclinic.data import slide_blocks
from polyclinic.data.slide_image import SlideImage
from polyclinic.errors import DataRejected
from slides import glass, with_tissue, write_slide

EDGE = 128
IMAGE = with_tissue(glass(300, 500), 40, 60, 200, 300)


class Spy:
    """Counts what OpenSlide is asked for."""

    def __init__(self, slide: SlideImage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, ...]] = []
        composed = slide._composed
        monkeypatch.setattr(
            slide, "_composed", lambda *place: self.asked.append(place) or composed(*place)
        )


def smooth(seed: int) -> np.ndarray:
    """300 x 500 pixels in which colours change everywhere."""
    small = np.random.default_rng(seed).integers(0, 256, (10, 16, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((500, 300), Image.Resampling.BICUBIC))


def write_jpeg_slide(path: Path, image: np.ndarray, meaning: str) -> Path:
    """A slide of JPEG blocks, which carry their own tables, as RGB or YCbCr."""
    height, width = image.shape[:2]
    rows, columns = -(-height // EDGE), -(-width // EDGE)
    padded = np.pad(image, ((0, rows * EDGE - height), (0, columns * EDGE - width), (0, 0)))

    def streams():
        for row in range(rows):
            for column in range(columns):
                part = padded[row * EDGE :, column * EDGE :][:EDGE, :EDGE]
                stream = io.BytesIO()
                options = {"keep_rgb": True} if meaning == "rgb" else {"subsampling": 2}
                Image.fromarray(part).save(stream, "JPEG", quality=80, **options)
                yield stream.getvalue()

    said = f"Aperio Image Library v12.0.0\n{width}x{height} ({EDGE}x{EDGE})|MPP = 0.5"
    with tifffile.TiffWriter(path) as file:
        file.write(
            streams(),
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(EDGE, EDGE),
            compression="zlib",  # tifffile writes streams as they are, but none that it names JPEG
            photometric="rgb",
            description=said,
            metadata=None,
        )
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(7)
        file.pages[0].tags["PhotometricInterpretation"].overwrite(6 if meaning == "ycbcr" else 2)
    return path


BOXES = [(0, 0, 500, 300), (0, 0, 1, 1), (127, 127, 2, 2), (128, 128, 128, 128), (77, 5, 260, 294)]


@pytest.mark.parametrize("meaning", ["rgb", "ycbcr"])
def test_jpeg_blocks_have_openslides_pixels(tmp_path, monkeypatch, meaning) -> None:
    path = write_jpeg_slide(tmp_path / "s.svs", smooth(0), meaning)
    with SlideImage(path) as slide:
        spy = Spy(slide, monkeypatch)
        found = [slide.read(0, *box) for box in BOXES]
        assert len(spy.asked) == 1  # the comparison
        for box, pixels in zip(BOXES, found, strict=True):
            assert pixels.shape == (box[3], box[2], 3)
            np.testing.assert_array_equal(pixels, slide._composed(0, *box))
    # Nothing is confused on both ways alike: lossy, but the picture.
    assert np.abs(found[0].astype(int) - smooth(0)).mean() < 6


@pytest.mark.parametrize("compression", ["zlib", None])
def test_other_blocks_have_openslides_pixels(tmp_path, monkeypatch, compression) -> None:
    path = write_slide(tmp_path / "s.svs", smooth(1), levels=2, compression=compression)
    with SlideImage(path) as slide:
        spy = Spy(slide, monkeypatch)
        for box in BOXES:
            x, y, width, height = box
            np.testing.assert_array_equal(
                slide.read(0, *box), smooth(1)[y : y + height, x : x + width]
            )
        half = smooth(1)[::2, ::2]
        np.testing.assert_array_equal(slide.read(1, 10, 20, 230, 130), half[20:, 10:240])
        assert len(spy.asked) == 2  # a comparison for each level


def test_what_is_not_read_by_blocks_is_openslides(tmp_path, monkeypatch) -> None:
    """A predictor is no difference that the comparison would have to find: it is known."""
    path = write_slide(tmp_path / "s.svs", smooth(2), predictor=True)
    with SlideImage(path) as slide:
        spy = Spy(slide, monkeypatch)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 500, 300), smooth(2))
        assert spy.asked == [(0, 0, 0, 500, 300)]


def test_beyond_the_edge_openslide_fills_with_white(tmp_path, monkeypatch) -> None:
    with SlideImage(write_slide(tmp_path / "s.svs", smooth(3))) as slide:
        spy = Spy(slide, monkeypatch)
        for box in ((490, 0, 20, 10), (-5, 0, 20, 10), (0, 295, 10, 10)):
            pixels = slide.read(0, *box)
            assert spy.asked[-1] == (0, *box)
            assert (pixels == 255).all(axis=-1).any()


def test_a_level_that_differs_from_openslides_is_not_used(tmp_path, monkeypatch) -> None:
    decoded = slide_blocks.Level.decoded
    monkeypatch.setattr(
        slide_blocks.Level, "decoded", lambda self, stream: decoded(self, stream) ^ np.uint8(1)
    )
    with SlideImage(write_slide(tmp_path / "s.svs", smooth(4))) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 500, 300), smooth(4))


def test_a_damaged_block_is_a_refusal_and_the_others_are_read(tmp_path) -> None:
    path = write_slide(tmp_path / "secret.svs", smooth(5))
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts
    worst = min(range(len(counts)), key=counts.__getitem__)
    raw = bytearray(path.read_bytes())
    raw[offsets[worst] : offsets[worst] + counts[worst]] = bytes(counts[worst])
    path.write_bytes(raw)
    x, y = worst % 4 * EDGE, worst // 4 * EDGE
    with SlideImage(path) as slide:
        with pytest.raises(DataRejected) as refusal:
            slide.read(0, x, y, 10, 10)
        assert refusal.value.reason == "unreadable"
        assert "secret" not in str(refusal.value)
    with SlideImage(path) as slide:  # OpenSlide stays closed to a slide after an error
        other = 0 if worst else 1
        x = other * EDGE
        np.testing.assert_array_equal(slide.read(0, x, 0, 9, 9), smooth(5)[:9, x : x + 9])


def test_a_block_that_inflates_too_far_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(50 << 20))
    numbers = np.zeros(1, np.int64)
    level = slide_blocks.Level((16, 16), (16, 16), numbers, numbers, 8)
    with pytest.raises(ValueError, match="reshape"):
        level.decoded(bomb)


def test_blocks_are_kept_up_to_a_bound_and_decoded_once(tmp_path, monkeypatch) -> None:
    calls: list[int] = []
    decoded = slide_blocks.Level.decoded
    monkeypatch.setattr(
        slide_blocks.Level,
        "decoded",
        lambda self, stream: calls.append(1) or decoded(self, stream),
    )
    path = write_slide(tmp_path / "s.svs", smooth(6))
    for bound, expected in ((12, 12), (5, 24)):  # blocks; 4 x 3 are in the file, read twice
        monkeypatch.setattr(slide_blocks, "CACHE_BYTES", bound * EDGE * EDGE * 3)
        with SlideImage(path) as slide:
            slide.read(0, 0, 0, 1, 1)
            slide._blocks._cache.clear()
            slide._blocks._held = 0
            calls.clear()
            for _ in range(2):
                slide.read(0, 0, 0, 500, 300)
            assert len(calls) == expected
            assert sum(b.nbytes for b in slide._blocks._cache.values()) == slide._blocks._held
            assert slide._blocks._held <= slide_blocks.CACHE_BYTES


@pytest.mark.data
def test_b10_real_slides_have_openslides_pixels(shared_data, monkeypatch) -> None:
    """One of JPEG, one of JPEG 2000 whose second level OpenSlide lays between pixels."""
    for path in sorted((shared_data / "wsi_small").glob("*.svs")):
        with SlideImage(path, 0.5) as slide:
            spy = Spy(slide, monkeypatch)
            for box in ((0, 0, 700, 500), (1111, 777, 300, 400)):
                pixels = slide.read(0, *box)
                np.testing.assert_array_equal(pixels, slide._composed(0, *box))
            assert len(spy.asked) == 1 + 2
