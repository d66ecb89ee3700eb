"""Gliomas as they are downloaded: slices halved, chosen and told apart from copies of FLAIR."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
DATE = "19990101"


@pytest.fixture
def lgg_download(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "poc"))
    sys.modules.pop("lgg_download", None)
    import lgg_download

    return lgg_download


def picture(seed: int, copied: tuple[int, ...] = ()) -> np.ndarray:
    """A slice (256, 256, 3); channels ``copied`` are FLAIR's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for channel in copied:
        pixels[..., channel] = pixels[..., 1]
    return pixels


def write(root: Path, patient: str, slices: dict[int, np.ndarray], mask=None) -> Path:
    """A patient's folder as the set unpacks to."""
    folder = root / f"{patient}_{DATE}"
    folder.mkdir(parents=True)
    for number, pixels in slices.items():
        stem = f"{patient}_{DATE}_{number}"
        Image.fromarray(pixels).save(folder / f"{stem}.tif")
        marks = np.zeros((256, 256), np.uint8) if mask is None else mask
        Image.fromarray(marks).save(folder / f"{stem}_mask.tif")
    return folder


def test_a_pixel_is_the_mean_of_four_and_marked_where_half_of_them_are(lgg_download, tmp_path):
    mask = np.zeros((256, 256), np.uint8)
    mask[0, 0] = mask[0, 2:4] = mask[10:20, 30:40] = 255  # a quarter, half and all of a pixel
    write(tmp_path, "TCGA_HT_0001", {1: picture(1)}, mask)
    shown, marks = lgg_download.opened(tmp_path).read("TCGA_HT_0001")

    means = picture(1).reshape(128, 2, 128, 2, 3).astype(float).mean(axis=(1, 3))
    assert (np.abs(shown[0] - means) <= 1.0).all()  # rounded once for each axis
    expected = np.zeros((128, 128), np.uint8)
    expected[0, 1] = expected[5:10, 15:20] = 1
    np.testing.assert_array_equal(marks[0], expected)


def test_slices_come_in_the_order_of_their_numbers(lgg_download, tmp_path):
    write(tmp_path, "TCGA_HT_0001", {10: picture(10), 2: picture(2), 9: picture(9)})
    shown, _ = lgg_download.opened(tmp_path).read("TCGA_HT_0001")
    alone = []
    for number in (2, 9, 10):
        write(tmp_path / str(number), "TCGA_HT_0001", {1: picture(number)})
        alone.append(lgg_download.opened(tmp_path / str(number)).read("TCGA_HT_0001")[0][0])
    np.testing.assert_array_equal(shown, np.stack(alone))


def test_a_sequence_is_there_when_any_slice_differs_from_flair(lgg_download, tmp_path):
    write(tmp_path, "TCGA_DU_0001", {1: picture(1, (0, 2)), 2: picture(2, (2,))})
    write(tmp_path, "TCGA_FG_0002", {1: picture(3)})
    people = lgg_download.opened(tmp_path).people
    told = {p: tuple(int(v) for v in row[1:]) for p, *row in people.itertuples()}
    assert told == {"TCGA_DU_0001": (1, 1, 0), "TCGA_FG_0002": (1, 1, 1)}
    assert dict(people["hospital"]) == {"TCGA_DU_0001": "DU", "TCGA_FG_0002": "FG"}


def test_dark_slices_are_dropped_and_of_many_28_are_kept_evenly(lgg_download, tmp_path):
    dark = picture(0)
    dark[..., 1] = 20
    dark[:2, :, 1] = 255  # 0.8 per cent
    light = dark.copy()
    light[:6, :, 1] = 255  # 2.3 per cent
    write(tmp_path, "TCGA_CS_0001", {i: light if i % 2 else dark for i in range(1, 111)})
    names = lgg_download.opened(tmp_path).slices["TCGA_CS_0001"]
    numbers = [int(n.rpartition("_")[2]) for n in names]
    # The 55 odd ones, every second of them but once.
    assert len(numbers) == 28
    assert (numbers[0], numbers[-1]) == (1, 109)
    assert all(n % 2 for n in numbers)
    assert set(np.diff(numbers)) == {4}


@pytest.mark.parametrize("inside", ["", "kaggle_3m", "lgg-mri-segmentation/kaggle_3m"])
def test_the_folders_are_found_where_the_archive_puts_them(lgg_download, tmp_path, inside):
    write(tmp_path / inside, "TCGA_CS_0001", {1: picture(1)})
    (tmp_path / inside / "README.md").write_text("about")
    assert list(lgg_download.opened(tmp_path).slices) == ["TCGA_CS_0001"]


def _no_mask(folder: Path) -> None:
    next(folder.glob("*_mask.tif")).unlink()


def _cut_short(folder: Path) -> None:
    path = next(p for p in folder.glob("*.tif") if "mask" not in p.name)
    path.write_bytes(path.read_bytes()[:3000])


def _small(folder: Path) -> None:
    for path in folder.glob("*.tif"):
        with Image.open(path) as image:
            image.resize((64, 64)).save(path)


def _huge(folder: Path) -> None:
    path = next(p for p in folder.glob("*.tif") if "mask" not in p.name)
    Image.new("1", (20_000, 20_000)).save(path, compression="group4")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _twice(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name(folder.name.replace(DATE, "20000101")))


@pytest.mark.parametrize("spoil", [_no_mask, _cut_short, _small, _huge, _empty, _twice])
def test_what_is_damaged_is_one_sentence(lgg_download, tmp_path, spoil):
    from polyclinic.errors import DataError

    spoil(write(tmp_path, "TCGA_CS_0001", {1: picture(1), 2: picture(2)}))
    with pytest.raises(DataError, match=r"download"):
        lgg_download.opened(tmp_path).read("TCGA_CS_0001")


def test_a_folder_with_neither_form_says_what_is_missing(lgg_download, tmp_path):
    from polyclinic.errors import DataError

    with pytest.raises(DataError, match="kaggle_3m"):
        lgg_download.opened(tmp_path)
