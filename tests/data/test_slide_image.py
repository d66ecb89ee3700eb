import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from polyclinic.data.slide_image import SlideImage
from polyclinic.errors import DataRejected
from slides import GLASS, glass, with_tissue, write_slide

IMAGE = with_tissue(glass(300, 400), 100, 100, 150, 200)


def reason_of(path: Path, mpp: float = 0.0) -> str:
    """Why a slide is refused, when it is opened or when all of it is read."""
    with pytest.raises(DataRejected) as refusal, SlideImage(path, mpp) as slide:
        slide.read(0, 0, 0, *slide.size)
    assert path.stem not in str(refusal.value)
    return refusal.value.reason


def test_a_slide_states_its_size_and_resolution(tmp_path) -> None:
    with SlideImage(write_slide(tmp_path / "s.svs", IMAGE, 0.25, levels=3)) as slide:
        assert (slide.size, slide.mpp) == ((400, 300), 0.25)
        assert slide.sizes == [(400, 300), (200, 150), (100, 75)]


def test_pixels_are_those_of_the_file(tmp_path) -> None:
    with SlideImage(write_slide(tmp_path / "s.svs", IMAGE, levels=2)) as slide:
        np.testing.assert_array_equal(slide.read(0, 90, 80, 50, 60), IMAGE[80:140, 90:140])
        np.testing.assert_array_equal(slide.read(1, 45, 40, 25, 30), IMAGE[::2, ::2][40:70, 45:70])


def test_what_was_not_scanned_is_white(tmp_path) -> None:
    with SlideImage(write_slide(tmp_path / "s.svs", IMAGE)) as slide:
        beyond = np.asarray(slide.read(0, 390, 0, 20, 10))
    assert (beyond[:, 10:] == 255).all()
    np.testing.assert_array_equal(beyond[:, :10], IMAGE[:10, 390:])


def test_the_level_is_the_coarsest_that_is_fine_enough(tmp_path) -> None:
    """Levels of 0.25, 0.5 and 1 micrometres."""
    with SlideImage(write_slide(tmp_path / "s.svs", IMAGE, 0.25, levels=3)) as slide:
        wanted = {0.2: 0, 0.25: 0, 0.4: 0, 0.5: 1, 0.9: 1, 1.0: 2, 8.0: 2}
        assert {m: slide.level_for(m) for m in wanted} == wanted


def test_the_site_may_state_the_resolution(tmp_path) -> None:
    path = write_slide(tmp_path / "secret.svs", IMAGE, None)
    assert reason_of(path) == "no_mpp"
    with SlideImage(path, 0.4) as slide:
        assert (slide.mpp, slide.stated_mpp) == (0.4, 0.0)


def test_a_resolution_of_a_desktop_scanner_is_none(tmp_path) -> None:
    """72 dots per inch are 352.8 micrometres."""
    assert reason_of(write_slide(tmp_path / "secret.svs", IMAGE, 352.8)) == "no_mpp"


def strip(path: Path) -> Path:
    tifffile.imwrite(path, IMAGE, photometric="rgb", rowsperstrip=16)
    return path


def picture(path: Path) -> Path:
    Image.fromarray(IMAGE).save(path, "PNG")
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def truncated(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3)).astype(np.uint8)
    raw = write_slide(path, noise).read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    return path


def one_tile(path: Path) -> Path:
    """A file whose only tile would take 76 MB."""
    white = np.full((4352, 4352, 3), 255, np.uint8)
    said = "Aperio Image Library v12.0.0\n4352x4352 (4352x4352)|MPP = 0.5"
    options = {"photometric": "rgb", "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, white, tile=(4352, 4352), description=said, **options)
    return path


BROKEN = {
    "strips": (strip, "s.tif", {"unsupported_slide"}),
    "a PNG": (picture, "s.svs", {"unsupported_slide"}),
    "0 bytes": (empty, "s.svs", {"unreadable"}),
    "text": (lambda p: p.write_text("slide") and p, "s.ndpi", {"unsupported_slide"}),
    "cut short": (truncated, "s.svs", {"unreadable", "unsupported_slide"}),
    "one tile": (one_tile, "s.svs", {"too_large"}),
    "nothing": (lambda p: p, "s.svs", {"missing_file"}),
}


@pytest.mark.parametrize(("make", "name", "reasons"), BROKEN.values(), ids=BROKEN.keys())
def test_b10_what_cannot_be_read_by_tiles_is_refused_with_a_code(
    tmp_path, make, name, reasons
) -> None:
    path = make(tmp_path / f"secret{name}")
    assert reason_of(path) in reasons


def tiles_of_tissue(count: int) -> Iterator[np.ndarray]:
    tile = np.full((512, 512, 3), GLASS, np.uint8)
    tile[64:448, 64:448] = (205, 120, 175)
    for _ in range(count):
        yield tile


READER = r"""
import re, sys
from pathlib import Path
from polyclinic.data.slide_image import SlideImage
from polyclinic.data.tiles import Tiling, plan_tiles, read_tiles
from polyclinic.data.tissue import overview, tissue_mask
with SlideImage(Path(sys.argv[1])) as slide:
    view = overview(slide)
    plan = plan_tiles(slide, view, tissue_mask(view), Tiling(mpp=1.0))
    count = sum(len(tiles) for tiles in read_tiles(slide, plan))
# Not ru_maxrss, which begins with the parent's.
print(count, *re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()))
"""


@pytest.mark.parametrize("side", [2048, 8192])
def test_b10_a_slide_without_a_pyramid_is_read_by_tiles_in_300_mb(tmp_path, side) -> None:
    """As one picture of OpenSlide's the larger one would take 268 MB."""
    path = tmp_path / "s.svs"
    said = f"Aperio Image Library v12.0.0\n{side}x{side} (512x512)|MPP = 0.5"
    tifffile.imwrite(
        path,
        tiles_of_tissue((side // 512) ** 2),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(512, 512),
        photometric="rgb",
        compression="zlib",
        description=said,
        metadata=None,
    )
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True
    )
    count, kilobytes = map(int, done.stdout.split())
    across = side // 2 // 224  # tiles of 224 pixels of 1 micrometre are 448 of the file's
    assert 0 < count <= across**2
    assert kilobytes < 300_000


def test_the_reader_of_pixels_never_asks_for_the_label(tmp_path, monkeypatch) -> None:
    import openslide

    def asked(self):
        raise AssertionError("the label was read")

    path = write_slide(tmp_path / "s.svs", IMAGE, levels=2, label=glass(50, 60))
    assert "label" in openslide.OpenSlide(path).associated_images
    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(asked))
    with SlideImage(path) as slide:
        slide.read(0, 0, 0, *slide.size)
        slide.identity()


def test_slides_are_told_apart_by_their_content(tmp_path) -> None:
    files = [write_slide(tmp_path / f"{i}.svs", glass(300, 400, i)) for i in range(2)]
    twin = write_slide(tmp_path / "twin.svs", glass(300, 400, 0))
    found = []
    for path in (*files, twin):
        with SlideImage(path) as slide:
            found.append(slide.identity())
    assert found[0] == found[2] != found[1]


def test_mutated_slides_are_read_or_refused(tmp_path) -> None:
    raw = write_slide(tmp_path / "s.svs", IMAGE, levels=2).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(120):
        rng = np.random.default_rng(seed)
        mutated = bytearray(raw)
        # Half of them in the directory, where a byte changes sizes and places.
        span = 600 if seed % 2 else len(raw)
        for at in rng.integers(0, span, 8):
            mutated[at] = int(rng.integers(256))
        path = tmp_path / f"m{seed}.svs"
        path.write_bytes(mutated)
        try:
            with SlideImage(path) as slide:
                side = [min(s, 2048) for s in slide.size]
                slide.read(0, 0, 0, side[0], side[1])
        except DataRejected:
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
