"""Pictures of patients: the slices that show most, and what a page may embed."""

from pathlib import Path

import numpy as np
import pytest

from polyclinic.errors import StudyError
from polyclinic.evaluation import overlays
from polyclinic.evaluation.overlays import PNG, best_slices, embedded, overlay, shown_slices


def marked(sizes: list[int]) -> np.ndarray:
    """A grid whose slices have so many marked voxels each."""
    found = np.zeros((8, 8, len(sizes)), dtype=bool)
    for k, size in enumerate(sizes):
        found.reshape(64, -1)[:size, k] = True
    return found


def test_the_slices_with_most_are_shown_in_order() -> None:
    assert best_slices(marked([0, 3, 0, 9, 0, 5, 0, 1])) == [1, 3, 5]


def test_slices_beside_each_other_do_not_crowd_out_the_others() -> None:
    # 16 marked slices: four apart. 8 has most; of those four away or more 4 and 12 have most.
    sizes = [9 - abs(k - 8) + 1 for k in range(16)]
    assert best_slices(marked(sizes)) == [4, 8, 12]


def test_fewer_marked_slices_than_three_are_all_there_is_to_show() -> None:
    assert best_slices(marked([0, 0, 4, 0])) == [2]


def test_the_slice_with_most_errors_is_shown_and_called_so() -> None:
    truth = np.zeros((8, 8, 12), dtype=np.uint8)
    for k, size in ((2, 6), (5, 5), (8, 4)):
        truth[:size, :size, k] = 1
    right = truth.copy()
    assert shown_slices(right, truth) == ([2, 5, 8], -1)
    wrong = truth.copy()
    wrong[:, :, 11] = 1  # where there is nothing
    assert shown_slices(wrong, truth) == ([2, 5, 11], 11)
    missed = truth.copy()
    missed[:, :, 5] = 0
    assert shown_slices(missed, truth) == ([2, 5, 8], 5)
    assert shown_slices(wrong, None)[1] == -1


def test_where_nothing_is_marked_the_scan_is_cut_in_four() -> None:
    assert best_slices(marked([0] * 8)) == [2, 4, 6]
    assert best_slices(marked([0])) == [0]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("depth", [1, 5])
def test_a_picture_is_drawn_with_and_without_truth(known: bool, depth: int) -> None:
    scan = np.random.default_rng(0).normal(size=(12, 10, depth))
    classes = np.zeros(scan.shape, np.uint8)
    classes[3:6, 3:6, 0], classes[4, 4, 0] = 1, 2
    names = ("background", "edema", "core")
    drawn = overlay(scan, classes, classes if known else None, (1.0, 2.0, 3.0), names)
    assert drawn.startswith(PNG)


def test_a_scan_in_which_nothing_was_found_is_drawn_too() -> None:
    nothing = np.zeros((12, 10, 4), np.uint8)
    scan = np.zeros(nothing.shape)
    assert overlay(scan, nothing, nothing, (1.0, 1.0, 1.0), ("background", "a")).startswith(PNG)


def test_a_picture_says_nothing_of_where_it_was_made() -> None:
    nothing = np.zeros((12, 10, 4), np.uint8)
    drawn = overlay(nothing * 1.0, nothing, None, (1.0, 1.0, 1.0), ("background", "a"))
    assert b"matplotlib" not in drawn.lower()
    assert b"tEXt" not in drawn


def test_the_pictures_of_a_folder_are_embedded_by_name(tmp_path: Path) -> None:
    (tmp_path / "p2.png").write_bytes(PNG)
    (tmp_path / "p1.png").write_bytes(PNG)
    (tmp_path / "scores.csv").write_text("patient")
    found = embedded(tmp_path)
    assert list(found) == ["p1", "p2"]
    assert found["p1"] == "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize("content", [None, b"<script>alert(1)</script>", b""])
def test_a_folder_without_pictures_or_with_others_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(StudyError, match="pictures"):
        embedded(tmp_path)
    with pytest.raises(StudyError, match="pictures"):
        embedded(tmp_path / "nowhere")


def test_more_than_a_page_can_show_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(PNG + b"0" * 100)
    monkeypatch.setattr(overlays, "MAX_PICTURES", 1)
    with pytest.raises(StudyError, match=r"2 picture\(s\)"):
        embedded(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(overlays, "MAX_BYTES", 150)
    with pytest.raises(StudyError, match="more than"):
        embedded(tmp_path)
