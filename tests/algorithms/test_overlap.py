"""Dice and Hausdorff distance of regions, against counting voxels by hand."""

import math

import pytest
import torch
from torch import Tensor

from polyclinic.algorithms.overlap import dice, hd95, region_masks, subsets
from polyclinic.task import Mask

TUMOUR = Mask(
    classes=("background", "necrosis", "edema", "enhancing"),
    values=(0, 1, 2, 4),
    regions={
        "wt": ("necrosis", "edema", "enhancing"),
        "tc": ("necrosis", "enhancing"),
        "et": ("enhancing",),
    },
)


def box(*edges: tuple[int, int], grid: int = 12) -> Tensor:
    """One region that is a box: from and to along each axis."""
    mask = torch.zeros(1, grid, grid, grid, dtype=torch.bool)
    (i0, i1), (j0, j1), (k0, k1) = edges
    mask[:, i0:i1, j0:j1, k0:k1] = True
    return mask


NOTHING = box((0, 0), (0, 0), (0, 0))


def test_a_region_unites_its_classes_and_no_others() -> None:
    classes = torch.arange(4).reshape(1, 1, 4)  # one voxel of each class index
    assert region_masks(classes, TUMOUR).flatten(1).tolist() == [
        [False, True, True, True],
        [False, True, False, True],
        [False, False, False, True],
    ]


def test_dice_counts_the_voxels_that_both_have() -> None:
    # 2 x 2 x 4 = 16 voxels and 2 x 2 x 4 = 16, half of them common: 2 * 8 / (16 + 16)
    a, b = box((0, 2), (0, 2), (0, 4)), box((0, 2), (0, 2), (2, 6))
    assert dice(a, b).tolist() == [0.5]
    # 16 voxels within 64: 2 * 16 / (16 + 64)
    whole = box((0, 4), (0, 4), (0, 4))
    assert dice(a, whole).tolist() == pytest.approx([0.4])
    assert dice(whole, a).tolist() == dice(a, whole).tolist()


def test_dice_is_one_where_a_region_is_neither_predicted_nor_there() -> None:
    assert dice(NOTHING, NOTHING).tolist() == [1.0]


def test_dice_is_zero_where_a_region_is_only_one_of_both() -> None:
    there = box((0, 2), (0, 2), (0, 2))
    assert dice(NOTHING, there).tolist() == [0.0]
    assert dice(there, NOTHING).tolist() == [0.0]


def test_each_region_has_its_own_score() -> None:
    a, b = box((0, 2), (0, 2), (0, 4)), box((0, 2), (0, 2), (2, 6))
    assert dice(torch.cat([a, NOTHING, a]), torch.cat([a, a, b])).tolist() == [1.0, 0.0, 0.5]
    assert hd95(torch.cat([a, a]), torch.cat([a, NOTHING])).isnan().tolist() == [False, True]


def test_the_same_mask_is_at_distance_zero() -> None:
    a = box((2, 6), (2, 6), (2, 6))
    assert hd95(a, a).tolist() == [0.0]


def test_a_plate_moved_by_three_voxels_is_at_distance_three() -> None:
    a, b = box((2, 8), (2, 8), (2, 3)), box((2, 8), (2, 8), (5, 6))
    assert hd95(a, b).tolist() == [3.0]


def test_spacing_makes_voxels_millimetres() -> None:
    a, b = box((2, 8), (2, 8), (2, 3)), box((2, 8), (2, 8), (5, 6))
    assert hd95(a, b, spacing_mm=(1.0, 1.0, 2.5)).tolist() == [7.5]


def test_a_few_voxels_far_away_do_not_count() -> None:
    plate = box((2, 10), (2, 10), (2, 3))  # 64 voxels, all of them surface
    speck = box((2, 3), (2, 3), (11, 12))
    # 1 of 65 predicted voxels is far, which is within the 5 % left out; all true ones are hit.
    assert hd95(plate | speck, plate).tolist() == [0.0]


def test_what_is_missed_counts_as_much_as_what_is_invented() -> None:
    far = box((2, 8), (2, 8), (2, 3)) | box((2, 8), (2, 8), (9, 10))
    near = box((2, 8), (2, 8), (2, 3))
    assert hd95(far, near).tolist() == [7.0]
    assert hd95(near, far).tolist() == [7.0]


def test_no_distance_is_defined_to_a_region_that_is_not_there() -> None:
    there = box((0, 2), (0, 2), (0, 2))
    for pair in ((NOTHING, there), (there, NOTHING), (NOTHING, NOTHING)):
        assert math.isnan(hd95(*pair).item())


def test_subsets_are_ordered_by_size_and_then_by_name() -> None:
    assert subsets(("t1", "flair", "t2")) == (
        *("flair", "t1", "t2"),
        *("flair+t1", "flair+t2", "t1+t2"),
        "flair+t1+t2",
    )


@pytest.mark.parametrize(("sequences", "count"), [(0, 0), (1, 1), (3, 7), (4, 15)])
def test_n_sequences_have_two_to_the_n_less_one_subsets(sequences: int, count: int) -> None:
    found = subsets([f"s{i}" for i in range(sequences)])
    assert len(set(found)) == len(found) == count
