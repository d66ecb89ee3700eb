"""Where crops lie and how they change."""

import numpy as np
import pytest
import torch
from monai.transforms import Rotate

from polyclinic.data.scan_crop import Crop, changed, draw_crop, turned
from polyclinic.data.scan_recipe import ScanRecipe

LENGTHS = (20, 18, 16)


def recipe(**settings: object) -> ScanRecipe:
    return ScanRecipe.model_validate({"size": [8, 8, 8], **settings})


def drawn(count: int = 200, marked: tuple[int, int, int] | None = None, **settings: object):
    at = [] if marked is None else [np.ravel_multi_index(marked, LENGTHS)]
    draw = np.random.RandomState(0)
    positions = np.array(at, dtype=np.int64)
    return [draw_crop(draw, LENGTHS, positions, recipe(**settings), 3) for _ in range(count)]


def test_crops_reach_both_ends_and_lie_inside() -> None:
    starts = np.array([c.starts for c in drawn()])
    np.testing.assert_array_equal(starts.min(axis=0), [0, 0, 0])
    np.testing.assert_array_equal(starts.max(axis=0), [12, 10, 8])


@pytest.mark.parametrize("voxel", [(0, 0, 0), (19, 17, 15), (10, 3, 14)])
def test_a_crop_around_a_marked_voxel_contains_it(voxel: tuple[int, int, int]) -> None:
    crops = drawn(100, voxel, foreground=1.0)
    starts = np.array([c.starts for c in crops])
    assert (starts <= voxel).all()
    assert (np.array(voxel) < starts + 8).all()
    assert (starts >= 0).all()
    assert (starts + 8 <= LENGTHS).all()


def test_so_many_crops_lie_around_a_mark_as_the_recipe_says() -> None:
    # A crop contains the corner by chance once in 13 x 11 x 9 places.
    share = np.mean([c.starts == (0, 0, 0) for c in drawn(400, (0, 0, 0), foreground=0.3)])
    assert share == pytest.approx(0.3, abs=0.06)
    assert not any(c.starts == (0, 0, 0) for c in drawn(50, (0, 0, 0), foreground=0.0))


def test_a_mask_without_any_mark_leaves_crops_to_chance() -> None:
    assert len({c.starts for c in drawn(20, foreground=1.0)}) > 10


def test_without_augmentation_nothing_is_changed() -> None:
    (crop,) = drawn(1)
    stack, classes = torch.randn(2, 8, 8, 8), torch.randint(0, 3, (8, 8, 8))
    same, labels = changed(stack, classes, crop, [0, 2], flat=False)
    assert torch.equal(same, stack)
    assert torch.equal(labels, classes)


def plain(**changes: object) -> Crop:
    given = {"starts": (0, 0, 0), "angles": (0.0, 0.0, 0.0), "flips": (False, False, False)}
    told = {"contrast": np.ones(3), "brightness": np.zeros(3)}
    return Crop(**{**given, **told, **changes})


def test_a_flip_mirrors_the_stack_and_its_classes_alike() -> None:
    stack = torch.randn(2, 8, 9, 10)
    classes = stack[0].mul(10).long()
    same, labels = changed(stack, classes, plain(flips=(True, False, True)), [0, 1], flat=False)
    assert torch.equal(same, stack.flip(1, 3))
    assert torch.equal(labels, same[0].mul(10).long())


def test_each_sequence_has_its_own_contrast_and_brightness_by_its_place_in_the_study() -> None:
    crop = plain(contrast=np.array([1.1, 0.9, 1.2]), brightness=np.array([0.1, -0.1, 0.05]))
    stack = torch.randn(2, 4, 4, 4)
    same, _ = changed(stack, torch.zeros(4, 4, 4), crop, [0, 2], flat=False)
    torch.testing.assert_close(same[0], stack[0] * 1.1 + 0.1)
    torch.testing.assert_close(same[1], stack[1] * 1.2 + 0.05)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_turning_is_monais_rotation(mode: str) -> None:
    stack = torch.randn(2, 12, 14, 10, generator=torch.Generator().manual_seed(0))
    angles = (0.1, -0.15, 0.12)
    expected = Rotate(list(angles), mode=mode, padding_mode="zeros")(stack)
    torch.testing.assert_close(turned(stack, angles, False, mode), expected.as_tensor())


def test_a_slice_is_turned_in_its_plane() -> None:
    stack = torch.randn(2, 12, 14, 1)
    expected = Rotate(0.12, mode="bilinear", padding_mode="zeros")(stack[..., 0]).as_tensor()
    found = turned(stack, (0.4, 0.4, 0.12), True, "bilinear")
    torch.testing.assert_close(found[..., 0], expected)


def test_turned_classes_are_classes_and_move_with_the_stack() -> None:
    classes = torch.zeros(16, 16, 16).long()
    classes[4:12, 5:9, 6:10] = 2
    crop = plain(angles=(0.1, 0.1, 0.1))
    stack, labels = changed((classes == 2).float()[None], classes, crop, [0], flat=False)
    assert labels.dtype == torch.int64
    assert type(labels) is torch.Tensor
    assert set(labels.unique().tolist()) == {0, 2}
    assert ((stack[0] > 0.5) == (labels == 2)).float().mean() > 0.99
    assert not torch.equal(labels, classes)


def test_angles_stay_within_the_recipe_and_are_drawn() -> None:
    angles = np.degrees([c.angles for c in drawn(augment={"rotate_degrees": 10})])
    assert np.abs(angles).max() <= 10
    assert np.abs(angles).max() > 9
    assert all(c.angles == (0, 0, 0) for c in drawn(5))


def test_a_patient_without_sequences_draws_as_many_numbers() -> None:
    one, other = np.random.RandomState(3), np.random.RandomState(3)
    settings = recipe(foreground=0.5, augment={"flip": True, "intensity": 0.1})
    draw_crop(one, LENGTHS, np.empty(0, np.int64), settings, 3)
    draw_crop(other, LENGTHS, np.arange(50), settings, 3)
    assert one.uniform() == other.uniform()
    assert (
        changed(torch.empty(0, 4, 4, 4), torch.zeros(4, 4, 4), plain(), [], False)[0].numel() == 0
    )
