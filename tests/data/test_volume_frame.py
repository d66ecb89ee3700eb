"""Volumes on one grid: positions, masks and blocks."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from polyclinic.data.flaw import Flaw
from polyclinic.data.grid import Volume, spacing_of
from polyclinic.data.volume_frame import cropped, framed, framed_shape, framing, thinned
from polyclinic.data.volume_recipe import VolumeRecipe
from volumes import affine


def line(shape: tuple[int, ...], placed: np.ndarray) -> np.ndarray:
    """x + 2y + 3z of every voxel's centre, in millimetres, and 1000."""
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    xyz = ijk @ placed[:3, :3].T + placed[:3, 3]
    return (xyz @ [1.0, 2.0, 3.0] + 1000).astype(np.float32)


def recipe(**settings: object) -> VolumeRecipe:
    return VolumeRecipe.model_validate({"size": [8, 8, 8], "crop": "centre", **settings})


@pytest.mark.parametrize(
    ("mm", "target", "blocks"),
    [(1.0, 2.0, 2), (1.0, 3.9, 3), (0.5, 2.0, 4), (2.0, 2.0, 1), (1.1, 2.0, 1)],
)
def test_means_of_blocks_lie_where_their_voxels_lay(mm: float, target: float, blocks: int) -> None:
    placed = affine(mm, (5, -7, 11))
    scan = Volume(line((17, 18, 19), placed), placed)
    thin = thinned(scan, recipe(spacing_mm=[target] * 3))
    assert thin.voxels.shape == tuple(n // blocks for n in (17, 18, 19))
    assert spacing_of(thin.affine) == pytest.approx((mm * blocks,) * 3)
    # The mean of a line over a block is its value in the block's middle.
    np.testing.assert_allclose(thin.voxels, line(thin.voxels.shape, thin.affine), rtol=1e-5)
    assert (thin is scan) == (blocks == 1)


def test_thick_slices_are_not_thinned_along_their_axis() -> None:
    placed = np.diag([0.5, 0.5, 6.0, 1.0])
    thin = thinned(Volume(line((20, 20, 6), placed), placed), recipe(spacing_mm=[1, 1, 1]))
    assert thin.voxels.shape == (10, 10, 6)
    np.testing.assert_allclose(thin.voxels, line((10, 10, 6), thin.affine), rtol=1e-5)


def test_masks_take_the_nearest_label_on_the_grid_of_the_first_sequence() -> None:
    """For tasks that mark places: a mask is resampled beside the sequences, without new labels."""
    placed, coarse = affine(1.0, (0, 0, 0)), affine(2.0, (0.5, 0.5, 0.5))
    labels = np.zeros((12, 12, 12), np.float32)
    labels[2:5, 4:6, 6:8] = 3
    scan = line((24, 24, 24), placed)
    named = {
        "t1": MetaTensor(torch.from_numpy(scan)[None], affine=torch.from_numpy(placed)),
        "tumour": MetaTensor(torch.from_numpy(labels)[None], affine=torch.from_numpy(coarse)),
    }
    out = framing(recipe(spacing_mm=[1, 1, 1]), ["t1"], ["tumour"])(named)
    expected = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert out["tumour"].shape == out["stack"].shape == (1, 24, 24, 24)
    np.testing.assert_array_equal(out["tumour"][0].numpy(), expected)


def test_the_middle_of_an_even_and_an_odd_difference_is_cut_out() -> None:
    stack = np.arange(2 * 5 * 4 * 4, dtype=np.float16).reshape(2, 5, 4, 4)
    cut = cropped(stack, (2, 4, 2), None)
    np.testing.assert_array_equal(cut.numpy(), stack[:, 1:3, :, 1:3].astype(np.float32))


def test_a_drawn_place_reaches_both_ends() -> None:
    stack = np.arange(6, dtype=np.float16).reshape(1, 6, 1, 1)
    draw = np.random.RandomState(0)
    firsts = {int(cropped(stack, (4, 1, 1), draw)[0, 0, 0, 0]) for _ in range(50)}
    assert firsts == {0, 1, 2}


def test_a_scan_without_a_voxel_above_zero_is_refused_where_the_box_of_those_is_cut() -> None:
    dark = Volume(-line((10, 11, 12), affine()), affine())
    with pytest.raises(Flaw) as raised:
        framed({"t1": dark}, recipe(crop="foreground"))
    assert raised.value.reason == "empty_volume"
    framed({"t1": dark}, recipe(crop="centre"))


def test_the_claimed_shape_is_that_after_resampling() -> None:
    placed = affine(3.0)
    scan = Volume(line((10, 11, 12), placed), placed)
    asked = recipe(spacing_mm=[2, 2, 2])
    _, lengths = framed({"t1": scan}, asked)
    claimed = framed_shape(placed, scan.voxels.shape, asked)
    assert all(abs(a - b) <= 2 for a, b in zip(claimed, lengths, strict=True))
    assert claimed == (15, 17, 18)
