"""Sequences and mask on one grid, and the way back to that of the files."""

import numpy as np
import pytest

from marked import SHAPE, marked, z_scored
from polyclinic.data.flaw import Flaw
from polyclinic.data.grid import Volume
from polyclinic.data.scan_frame import classes_of, framed_scan, looked_up
from polyclinic.data.scan_recipe import ScanRecipe
from volumes import affine, head


def recipe(**settings: object) -> ScanRecipe:
    given = {"size": [8, 8, 8], "spacing_mm": None, "box": False, **settings}
    return ScanRecipe.model_validate(given)


def volume(voxels: np.ndarray, placed: np.ndarray | None = None) -> Volume:
    return Volume(voxels.astype(np.float32), affine() if placed is None else placed)


def test_codes_become_class_indices_whatever_their_order() -> None:
    mask = volume(np.array([[[0, 4], [1, 2]]]))
    np.testing.assert_array_equal(classes_of(mask, (0, 2, 1, 4)).voxels, [[[0, 3], [2, 1]]])


def test_a_number_stored_as_a_scaled_one_is_the_number() -> None:
    mask = volume(np.array([[[0.0, 1.0004], [1.9999, 0.0]]]))
    np.testing.assert_array_equal(classes_of(mask, (0, 1, 2)).voxels, [[[0, 1], [2, 0]]])


@pytest.mark.parametrize("other", [3.0, 0.5, -1.0, 5.0, 70000.0])
def test_any_other_number_makes_a_bad_mask(other: float) -> None:
    with pytest.raises(Flaw) as raised:
        classes_of(volume(np.array([[[0.0, 1.0], [other, 4.0]]])), (0, 1, 4))
    assert raised.value.reason == "bad_mask"


def test_without_a_spacing_nothing_is_interpolated() -> None:
    placed = np.array([[1.3, 0, 0, -5], [0, 0.9, 0, 2], [0, 0, 4.1, 7], [0, 0, 0, 1]])
    a, b = head(0, (11, 13, 9)), head(1, (11, 13, 9))
    mask = volume(marked((11, 13, 9), (0, 1, 2)), placed)
    out = framed_scan({"a": volume(a, placed), "b": volume(b, placed)}, mask, recipe(), 2)
    for found, expected in zip(out.stack, (a, b), strict=True):
        np.testing.assert_allclose(found, z_scored(expected), atol=2e-3)
    np.testing.assert_array_equal(out.tissues, mask.voxels)
    np.testing.assert_allclose(out.affine, placed)
    assert out.kept == 1.0


def test_a_scan_without_a_voxel_above_zero_is_no_stack_of_zeros() -> None:
    dark = volume(head(0) - 1000.0)
    with pytest.raises(Flaw) as raised:
        framed_scan({"a": dark}, volume(marked(codes=(0, 1, 2))), recipe(box=True), 1)
    assert raised.value.reason == "empty_volume"
    # Another sequence that the site trains on shows where the head is.
    both = {"a": dark, "b": volume(head(0))}
    assert framed_scan(both, None, recipe(box=True), 2).stack.any(axis=(1, 2, 3)).all()


def test_a_stack_smaller_than_a_crop_is_filled_up_and_its_place_is_told() -> None:
    out = framed_scan(
        {"a": volume(head(0))}, volume(marked(codes=(0, 1, 2))), recipe(size=[16, 8, 8]), 1
    )
    assert out.stack.shape[1:] == out.tissues.shape == (16, 12, 8)
    # Three voxels of 2 mm came before the first.
    np.testing.assert_allclose(out.affine[:3, 3], affine()[:3, 3] - [6, 0, 0])
    assert not out.stack[0, :3].any()
    np.testing.assert_array_equal(out.tissues[3:13], marked(codes=(0, 1, 2)))


def test_the_box_is_that_of_the_sequences_trained_on() -> None:
    small, large = np.zeros((12, 12, 12)), np.zeros((12, 12, 12))
    small[3:11, 2:10, 2:10] = np.random.default_rng(0).uniform(1, 2, (8, 8, 8))
    large[1:11, 1:11, 1:11] = np.random.default_rng(1).uniform(1, 2, (10, 10, 10))
    scans = {"held": volume(small), "withheld": volume(large)}
    assert framed_scan(scans, None, recipe(box=True), 1).stack.shape == (2, 8, 8, 8)
    assert framed_scan(scans, None, recipe(box=True), 2).stack.shape == (2, 10, 10, 10)


def test_a_mask_of_another_grid_is_looked_up_at_the_nearest_voxel() -> None:
    coarse = affine(2.0, (0.5, 0.5, 0.5))
    labels = np.zeros((6, 6, 6))
    labels[2:4, 1, 3] = 1
    fine = volume(head(0, (12, 12, 12)), affine(1.0, (0, 0, 0)))
    out = framed_scan({"a": fine}, volume(labels, coarse), recipe(), 1)
    np.testing.assert_array_equal(out.tissues, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert out.kept == pytest.approx(1.0)


def test_what_a_mask_loses_outside_the_view_is_told() -> None:
    labels = np.zeros((12, 12, 12))
    labels[:, 6, 6] = 1
    half = volume(head(0, (6, 12, 12)), affine())
    out = framed_scan({"a": half}, volume(labels), recipe(size=[8, 8, 8]), 1)
    assert out.kept == pytest.approx(0.5)


def test_an_empty_mask_loses_nothing() -> None:
    out = framed_scan({"a": volume(head(0))}, volume(np.zeros(SHAPE)), recipe(), 1)
    assert out.kept == 1.0


def test_looking_up_a_cut_and_turned_array_gives_it_back_exactly() -> None:
    classes = np.random.default_rng(0).integers(0, 5, (6, 7, 5)).astype(np.uint8)
    whole = np.zeros((10, 9, 8), np.uint8)
    whole[2:8, 1:8, 3:8] = classes
    placed = affine(1.7, (3, -4, 5))
    cut = placed.copy()
    cut[:3, 3] += placed[:3, :3] @ [2, 1, 3]
    np.testing.assert_array_equal(looked_up(classes, cut, placed, whole.shape), whole)
    # The file has the axes in another order, two of them from the other end.
    stored = whole.transpose(2, 0, 1)[::-1, :, ::-1]
    back = np.zeros((4, 4))
    back[:, 3] = placed @ [0, 8, 7, 1]
    back[:, 0], back[:, 1], back[:, 2] = -placed[:, 2], placed[:, 0], -placed[:, 1]
    np.testing.assert_array_equal(looked_up(classes, cut, back, stored.shape), stored)


def test_looking_up_in_parts_is_looking_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from polyclinic.data import scan_frame

    classes = np.random.default_rng(1).integers(0, 5, (6, 7, 5))
    source = affine(0.9, (-9, -12, -8))
    at_once = looked_up(classes, affine(), source, (14, 15, 16))
    monkeypatch.setattr(scan_frame, "AT_ONCE", 500)
    np.testing.assert_array_equal(looked_up(classes, affine(), source, (14, 15, 16)), at_once)
    assert at_once.any()
