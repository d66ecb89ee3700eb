"""Affines that can be believed, and what two grids share."""

import numpy as np
import pytest

from polyclinic.data.grid import canonical, flaw, overlap, spacing_of

BOX = (10, 10, 10)


def affine(*spacing: float, origin: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    made = np.diag([*spacing, 1.0])
    made[:3, 3] = origin
    return made


def test_a_tilted_gantry_is_believed() -> None:
    tilted = affine(1, 1, 5)
    tilted[1, 2] = 5 * np.tan(np.pi / 6)
    assert flaw(tilted, BOX) == ""


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (np.zeros((4, 4)), "zeros"),
        (np.full((4, 4), np.nan), "finite"),
        (affine(1, 1, np.inf), "finite"),
        (affine(1, 1, 0), "zeros"),
        (affine(1, 1, 1) + np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]), "singular"),
        (affine(1, 1, 51), "outside"),
        (affine(1, 1, 0.001), "outside"),
        (affine(1, 1, 1, origin=(2e5, 0, 0)), "larger than a patient"),
        (np.eye(3), "finite"),
    ],
)
def test_what_no_scanner_writes_is_not_believed(wrong: np.ndarray, why: str) -> None:
    assert why in flaw(wrong, BOX)


def test_a_field_of_view_of_many_metres_is_not_believed() -> None:
    assert flaw(affine(40, 40, 40), (70, 70, 70)) == ""
    assert "larger" in flaw(affine(40, 40, 40), (80, 70, 70))


def test_canonical_order_moves_no_voxel_in_the_patient() -> None:
    voxels = np.arange(24.0).reshape(2, 3, 4)
    turned = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, 6], [0, 0, -4.0, 7], [0, 0, 0, 1]])
    found, moved = canonical(voxels, turned)
    assert found.shape == (3, 2, 4)
    assert spacing_of(moved) == (2.0, 3.0, 4.0)
    assert (np.diag(moved)[:3] > 0).all()
    back = np.linalg.inv(turned) @ moved
    for index in np.ndindex(found.shape):
        i, j, k = np.rint(back @ [*index, 1])[:3].astype(int)
        assert found[index] == voxels[i, j, k]


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (5, 0.5), (10, 0.0), (-100, 0.0)])
def test_overlap_is_the_share_that_both_fields_of_view_have(shift: float, expected: float) -> None:
    moved = affine(1, 1, 1, origin=(shift, 0, 0))
    assert overlap(affine(1, 1, 1), BOX, moved, BOX) == pytest.approx(expected)
    assert overlap(moved, BOX, affine(1, 1, 1), BOX) == pytest.approx(expected)


def test_a_slab_inside_a_head_overlaps_wholly() -> None:
    slab, head = (10, 10, 2), (100, 100, 100)
    assert overlap(affine(1, 1, 1), head, affine(2, 2, 5, origin=(3, 3, 3)), slab) == 1.0
