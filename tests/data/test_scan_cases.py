"""Scans to be segmented, and class maps on the grid of their files."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from marked import SEQUENCES, SHAPE, Ward, a_study, marked, turned
from polyclinic.data.scan_cases import Case, open_for_prediction
from polyclinic.errors import DataError
from series import slices, write_series
from volumes import affine, head, write


def case(ward: Ward, number: int = 0, **changes: object) -> Case:
    return open_for_prediction(ward.settings(), a_study(**changes)).cases[number]


def stored(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine as they lie in a file."""
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def test_neither_masks_nor_a_split_are_needed(tmp_path: Path) -> None:
    ward = Ward(tmp_path, mask=None)
    ward.patients(3, [(i, "seg") for i in range(3)] + [(1, "t1")])
    found = open_for_prediction(ward.settings(), a_study(split={"source": "manifest"}))
    assert [c.pseudonym for c in found.cases] == ["p00", "p01", "p02"]
    assert "p00" not in repr(found)
    batch = found.cases[1].batch()
    assert batch.inputs["flair"].shape == (1, 1, *SHAPE)
    assert batch.labels.shape == (1, *SHAPE)
    assert not batch.labels.any()
    assert batch.present["t1"].tolist() == [False]
    assert not batch.inputs["t1"].any()
    assert batch.rows.tolist() == [0]


def test_a_case_is_the_stack_that_was_trained_on(tmp_path: Path) -> None:
    ward = Ward(tmp_path, held=("flair", "t1"), withheld=("t1ce",))
    ward.patients(4)
    cohort = ward.open()
    trained = {
        b.inputs["t1"].numpy().tobytes() for s in ("train", "test") for b in cohort.batches(s, 1)
    }
    found = open_for_prediction(ward.settings(), a_study())
    assert all(c.modalities == ("flair", "t1") for c in found.cases)
    assert {c.batch().inputs["t1"].numpy().tobytes() for c in found.cases} == trained


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SLA", "AIR"])
def test_what_is_above_a_threshold_comes_back_voxel_by_voxel(tmp_path: Path, codes: str) -> None:
    """Whatever the order in which the file has its axes: brightness is marked where it was."""
    ward = Ward(tmp_path, held=("t1",))
    ward.patients(1)
    path = ward.path("p00", "t1")
    turned(path, codes)
    one = case(ward, recipe={"size": [16, 16, 16]})  # filled up on all sides
    inputs = one.batch().inputs["t1"][0, 0]
    assert inputs.shape == (16, 16, 16)
    back, placed = one.to_source((inputs > 0.3).to(torch.uint8).numpy())
    voxels, expected = stored(path)
    inside = voxels[voxels != 0].astype(float)
    np.testing.assert_array_equal(back, voxels > inside.mean() + 0.3 * inside.std())
    np.testing.assert_allclose(placed, expected)
    assert back.dtype == np.uint8


def test_outside_the_box_nothing_is_marked(tmp_path: Path) -> None:
    ward = Ward(tmp_path, held=("t1",))
    ward.patients(1)
    one = case(ward, recipe={"box": True, "size": [8, 8, 1]})
    assert one.stack.lengths == (8, 10, 6)
    back, _ = one.to_source(np.ones((8, 10, 6), np.uint8))
    np.testing.assert_array_equal(back, head(1, SHAPE) != 0)


def test_a_resampled_stack_comes_back_at_the_nearest_voxel(tmp_path: Path) -> None:
    """A half space stays one: its edge moves by no more than half a voxel of the stack."""
    ward = Ward(tmp_path, held=("t1",))
    ward.ids(1)
    placed = np.array([[0.0, 0, 2, -20], [1.5, 0, 0, -15], [0, -3.0, 0, 30], [0, 0, 0, 1]])
    path = ward.path("p00", "t1")
    write(path, np.random.default_rng(0).integers(1, 99, (24, 14, 20)).astype(np.int16), placed)
    one = case(ward, recipe={"spacing_mm": [1, 1, 1]})
    x = one.stack.affine[0, 0] * np.arange(one.stack.lengths[0]) + one.stack.affine[0, 3]
    half = np.broadcast_to((x > 3.2)[:, None, None], one.stack.lengths).astype(np.uint8)
    back, source = one.to_source(half)
    assert back.shape == (24, 14, 20)
    np.testing.assert_allclose(source, placed)
    right = placed[0, 2] * np.arange(20) + placed[0, 3]
    clear = (np.abs(right - 3.2) > 0.5) & (right < x[-1])
    expected = np.broadcast_to(right > 3.2, back.shape)
    np.testing.assert_array_equal(back[..., clear], expected[..., clear])


def test_the_grid_is_that_of_the_first_sequence_that_can_be_read(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(2)
    broken = ward.path("p00", "flair")
    broken.write_bytes(b"")
    write(ward.path("p00", "t1"), head(3, (14, 12, 10)), affine(2.0, (-14, -12, -10)))
    found = open_for_prediction(ward.settings(), a_study())
    assert found.cases[0].stack.there == ("t1", "t1ce")
    assert found.cases[0].to_source(np.zeros((14, 12, 10)))[0].shape == (14, 12, 10)
    assert found.report.counts == {"empty_file": 1}


def test_a_patient_without_a_readable_sequence_is_no_case(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(3, [(1, s) for s in SEQUENCES])
    found = open_for_prediction(ward.settings(), a_study())
    assert [c.pseudonym for c in found.cases] == ["p00", "p02"]


def test_two_files_of_one_sequence_are_refused(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(1)
    write(tmp_path / "mri" / "p00" / "t1.nii.gz", head(0, SHAPE))
    with pytest.raises(DataError, match="one file for each sequence"):
        open_for_prediction(ward.settings(), a_study())


def test_a_map_of_probabilities_stays_one(tmp_path: Path) -> None:
    ward = Ward(tmp_path, held=("t1",))
    ward.patients(1)
    chances = np.random.default_rng(0).random(SHAPE)
    back, _ = case(ward).to_source(chances)
    np.testing.assert_array_equal(back, chances)


def test_a_dicom_series_is_read_with_a_mask_of_another_kind(tmp_path: Path) -> None:
    ward = Ward(tmp_path, held=("t1",))
    ward.source, ward.mask = {"folder": "dicom", "layout": "dicom"}, {"folder": "truth"}
    for i, p in enumerate(ward.ids(4)):
        write_series(tmp_path / "dicom" / p / "t1", slices(head(i, SHAPE), affine()))
        write(tmp_path / "truth" / f"{p}.nii.gz", marked())
    cohort = ward.open()
    assert cohort.quarantine.counts == {}
    batch = next(cohort.batches("train", 1))
    # An oblong box of 5 x 6 x 4 voxels lies where it was drawn, in the order of the scan.
    np.testing.assert_array_equal(batch.labels[0].numpy(), marked(codes=(0, 1, 2)))
    one = case(ward)
    back, placed = one.to_source(batch.labels[0].numpy())
    np.testing.assert_array_equal(back, batch.labels[0].numpy())
    np.testing.assert_allclose(placed, affine(), atol=1e-6)
