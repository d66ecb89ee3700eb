import threading

import numpy as np
import pytest

from polyclinic.data.slide_image import SlideImage
from polyclinic.data.tiles import (
    TilePlan,
    Tiling,
    plan_tiles,
    read_block,
    read_tiles,
    tissue_share,
)
from polyclinic.data.tissue import Overview, overview, tissue_mask
from polyclinic.errors import DataRejected, StudyError
from slides import glass, with_tissue, write_slide

SMALL = Tiling(mpp=0.5, tile_px=64)


def planned(slide: SlideImage, tiling: Tiling, everywhere: bool = False) -> TilePlan:
    view = overview(slide)
    mask = np.ones(view.pixels.shape[:2], bool) if everywhere else tissue_mask(view)
    return plan_tiles(slide, view, mask, tiling)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_tiles_at_the_slides_own_resolution_are_its_pixels(tmp_path) -> None:
    image = noise(300, 400)
    with SlideImage(write_slide(tmp_path / "s.svs", image)) as slide:
        plan = planned(slide, SMALL, everywhere=True)
        tiles = np.concatenate(list(read_tiles(slide, plan)))
    # 400 // 64 = 6 by 300 // 64 = 4; what sticks out is left out.
    assert sorted(map(tuple, plan.corners)) == [
        (64 * i, 64 * j) for i in range(6) for j in range(4)
    ]
    for (x, y), tile in zip(plan.corners, tiles, strict=True):
        np.testing.assert_array_equal(tile, image[y : y + 64, x : x + 64])


def test_overlapping_tiles_begin_a_step_apart(tmp_path) -> None:
    with SlideImage(write_slide(tmp_path / "s.svs", noise(130, 200))) as slide:
        plan = planned(slide, Tiling(mpp=0.5, tile_px=64, overlap_px=32), everywhere=True)
    # Steps of 32: the last that fits begins at 128 of 200, and at 64 of 130.
    assert sorted({int(x) for x in plan.corners[:, 0]}) == [0, 32, 64, 96, 128]
    assert sorted({int(y) for y in plan.corners[:, 1]}) == [0, 32, 64]


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows by 1 each 4 pixels to the right, green each 4 downwards."""
    out = np.zeros((height, width, 3), np.uint8)
    out[..., 0] = np.arange(width) // 4
    out[..., 1] = (np.arange(height) // 4)[:, None]
    return out


@pytest.mark.parametrize("mpp", [0.253, 0.41, 0.5])
def test_a_tile_shows_the_same_micrometres_whatever_the_files_resolution(tmp_path, mpp) -> None:
    """At micrometre u the ramp has the value u / (4 mpp); a tile's pixel k, 0.5 micrometres wide,
    has its middle at micrometre corner + (k + 0.5) / 2."""
    with SlideImage(write_slide(tmp_path / "s.svs", ramp(900, 900), mpp)) as slide:
        plan = planned(slide, SMALL, everywhere=True)
        tiles = np.concatenate(list(read_tiles(slide, plan)))
    assert len(tiles) > 4
    for (x, y), tile in zip(plan.corners, tiles, strict=True):
        middles = (np.arange(64) + 0.5) * 0.5
        right = (x * 0.5 + middles) / mpp / 4 - 0.5
        down = (y * 0.5 + middles) / mpp / 4 - 0.5
        inner = slice(4, -4)  # away from the edges of the slide
        np.testing.assert_allclose(tile[32, inner, 0], right[inner], atol=1.0)
        np.testing.assert_allclose(tile[inner, 32, 1], down[inner], atol=1.0)


def test_a_tile_has_the_same_pixels_in_whatever_block_it_is_read(tmp_path) -> None:
    with SlideImage(write_slide(tmp_path / "s.svs", noise(700, 900), 0.31, levels=2)) as slide:
        plan = planned(slide, SMALL, everywhere=True)
        together = np.concatenate(list(read_tiles(slide, plan)))
        alone = np.concatenate([read_block(slide, plan, c[None]) for c in plan.corners])
    # Two roundings to whole brightness.
    assert np.abs(together.astype(int) - alone).max() <= 2


def test_a_tile_much_coarser_than_the_file_is_read_in_pieces(tmp_path, monkeypatch) -> None:
    """Without a pyramid one tile of 4 micrometres a pixel spans 512 pixels of the file."""
    widest = []
    with SlideImage(write_slide(tmp_path / "s.svs", noise(1100, 1100))) as slide:
        plan = planned(slide, Tiling(mpp=4.0, tile_px=64), everywhere=True)
        whole = np.concatenate(list(read_tiles(slide, plan)))
        monkeypatch.setattr("polyclinic.data.tiles.MAX_REGION", 200)
        read = slide.read
        monkeypatch.setattr(slide, "read", lambda *a: widest.append(a[3]) or read(*a))
        pieces = np.concatenate(list(read_tiles(slide, plan)))
    assert max(widest) <= 200 + 2 * 9 + 1
    assert np.abs(whole.astype(int) - pieces).max() <= 2


def test_only_tiles_with_enough_tissue_are_kept(tmp_path) -> None:
    """The overview has 2 micrometres a pixel: tissue covers x from 128 to 288, y from 128 to 384
    of 512 pixels of 0.5."""
    mask = np.zeros((128, 128), bool)
    mask[32:96, 32:72] = True
    view = Overview(np.zeros((128, 128, 3), np.uint8), 2.0)
    kept = {}
    with SlideImage(write_slide(tmp_path / "s.svs", glass(512, 512))) as slide:
        for least in (0.25, 0.2501):
            tiling = Tiling(mpp=0.5, tile_px=128, min_tissue=least)
            kept[least] = sorted(map(tuple, plan_tiles(slide, view, mask, tiling).corners))
    # The column from 256 on holds tissue in its first 32 of 128 pixels: a quarter.
    assert kept[0.25] == [(128, 128), (128, 256), (256, 128), (256, 256)]
    assert kept[0.2501] == [(128, 128), (128, 256)]


def test_the_share_of_tissue_is_the_exact_area() -> None:
    """A tile of 3 by 3 pixels of the mask that begins at (0.5, 1.25)."""
    rng = np.random.default_rng(0)
    mask = rng.random((9, 9)) < 0.5
    fine = mask.repeat(4, axis=0).repeat(4, axis=1)  # quarters of a pixel
    expected = fine[5 : 5 + 12, 2 : 2 + 12].mean()
    share = tissue_share(mask, np.array([[0.5, 1.25]]), Tiling(mpp=0.5, tile_px=24), 4.0)
    assert share[0] == pytest.approx(expected)


def test_coordinates_are_told_in_pixels_of_level_0(tmp_path) -> None:
    with SlideImage(write_slide(tmp_path / "s.svs", noise(600, 600), 0.25)) as slide:
        plan = planned(slide, SMALL, everywhere=True)
    np.testing.assert_array_equal(plan.corners_level0, plan.corners * 2)
    np.testing.assert_allclose(plan.corners_um, plan.corners * 0.5)


REFUSED = {
    "no_tissue": (glass(300, 300), 0.5),
    "too_coarse": (with_tissue(glass(300, 300), 0, 0, 300, 300), 1.0),
}


@pytest.mark.parametrize(("reason", "slide"), REFUSED.items(), ids=REFUSED.keys())
def test_a_slide_without_tiles_is_refused_with_a_code(tmp_path, reason, slide) -> None:
    image, mpp = slide
    path = write_slide(tmp_path / "secret.svs", image, mpp)
    with SlideImage(path) as opened, pytest.raises(DataRejected) as refusal:
        planned(opened, SMALL)
    assert refusal.value.reason == reason
    assert "secret" not in str(refusal.value)


def test_a_slide_smaller_than_a_tile_has_none(tmp_path) -> None:
    image = with_tissue(glass(60, 200), 0, 0, 60, 200)
    path = write_slide(tmp_path / "s.svs", image)
    with SlideImage(path) as slide, pytest.raises(DataRejected) as refusal:
        planned(slide, SMALL, everywhere=True)
    assert refusal.value.reason == "no_tissue"


def test_a_grid_beyond_any_real_slide_is_refused(tmp_path) -> None:
    path = write_slide(tmp_path / "s.svs", glass(2200, 2200), 0.5)
    with SlideImage(path) as slide:
        view = Overview(np.zeros((10, 10, 3), np.uint8), 100.0)
        tiling = Tiling(mpp=0.5, tile_px=64, overlap_px=62)
        with pytest.raises(DataRejected) as refusal:
            plan_tiles(slide, view, np.ones((10, 10), bool), tiling)
    assert refusal.value.reason == "too_large"  # 1069 by 1069 positions, more than 2**20


@pytest.mark.parametrize(
    "wrong",
    [{"mpp": 0.0}, {"mpp": float("nan")}, {"tile_px": 8}, {"overlap_px": 224}, {"min_tissue": 0.0}],
)
def test_an_impossible_tiling_is_refused(wrong) -> None:
    with pytest.raises(StudyError):
        Tiling(**wrong)


def test_blocks_come_in_order_and_few_are_read_ahead(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("polyclinic.data.tiles.BLOCK_PIXELS", 64)
    with SlideImage(write_slide(tmp_path / "s.svs", noise(512, 512))) as slide:
        plan = planned(slide, SMALL, everywhere=True)
        lock, asked, read = threading.Lock(), [], slide.read

        def counted(*place: int):
            with lock:
                asked.append(place)
            return read(*place)

        monkeypatch.setattr(slide, "read", counted)
        ahead = []
        for taken, (corners, tiles) in enumerate(
            zip(plan.blocks, read_tiles(slide, plan, threads=2), strict=True)
        ):
            with lock:
                ahead.append(len(asked) - taken)
            (x, y), *_ = corners
            np.testing.assert_array_equal(tiles[0], noise(512, 512)[y : y + 64, x : x + 64])
    assert len(plan.ends) == 64
    assert max(ahead) <= 4  # the one in hand, and three that are read ahead


def test_a_tile_damaged_inside_the_file_is_a_refusal(tmp_path) -> None:
    path = write_slide(tmp_path / "s.svs", noise(512, 512))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 2000] = bytes(2000)
    path.write_bytes(raw)
    with SlideImage(path) as slide:
        view = Overview(np.zeros((128, 128, 3), np.uint8), 2.0)
        plan = plan_tiles(slide, view, np.ones((128, 128), bool), SMALL)
        with pytest.raises(DataRejected) as refusal:
            list(read_tiles(slide, plan))
    assert refusal.value.reason == "unreadable"
