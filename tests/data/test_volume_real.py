"""Real brains: four sequences of three patients (Lesjak et al., Neuroinformatics 2017, CC-BY)."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from polyclinic.data import volume
from polyclinic.data.nifti import read_nifti
from polyclinic.data.volume import VolumeColumn
from polyclinic.data.volume_frame import framed
from volumes import modality, request

pytestmark = pytest.mark.data
PATIENTS = ("patient07", "patient19", "patient26")
SEQUENCES = ("t1", "t1ce", "t2", "flair")
NAMES = {"t1ce": "T1POST"}
RECIPE = {"size": [80, 96, 80], "spacing_mm": [2, 2, 2]}


def read(folder: Path, cache: Path | None = None, **recipe: object) -> VolumeColumn:
    asked = modality(SEQUENCES, **(RECIPE | recipe))
    given = request(folder.parent, asked=asked, ids=PATIENTS, cache=cache, sequences=NAMES)
    source = given.source.model_copy(update={"folder": folder.name})
    reading = volume.read(type(given)(**{**vars(given), "source": source}))
    assert reading.entries == ()
    # The three lesion masks are no sequences of the study.
    assert "3 file(s) belong to no sequence of the study" in reading.notes
    assert isinstance(reading.column, VolumeColumn)
    return reading.column


def test_all_sequences_are_loaded_resampled_and_normalised(shared_data: Path) -> None:
    inputs, fields = read(shared_data / "ms_mri_mini").collate(torch.arange(3))
    assert inputs.shape == (3, 4, 80, 96, 80)
    assert fields.all()
    for stack in inputs.flatten(0, 1):
        inside = stack[stack != 0]
        assert 0.2 < inside.numel() / stack.numel() < 0.8  # a brain fills that much of its box
        assert abs(float(inside.mean())) < 0.02
        assert float(inside.std()) == pytest.approx(1, abs=0.02)


def test_one_that_is_absent_on_purpose_is_masked_and_changes_no_other(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ms"
    shutil.copytree(shared_data / "ms_mri_mini", folder)
    whole = read(folder).collate(torch.arange(3))[0]
    (folder / "patient19_T2.nii.gz").unlink()
    inputs, fields = read(folder).collate(torch.arange(3))
    assert fields.tolist() == [[True] * 4, [True, True, False, True], [True] * 4]
    assert (inputs[1, 2] == 0).all()
    assert torch.equal(inputs[fields], whole[fields])


def test_at_twice_the_spacing_a_voxel_is_the_mean_of_eight(shared_data: Path) -> None:
    folder = shared_data / "ms_mri_mini"
    fine = read(folder, crop="centre", size=[90, 108, 90]).collate(torch.arange(3))[0]
    coarse = read(folder, crop="centre", size=[45, 54, 45], spacing_mm=[4, 4, 4])
    found = coarse.collate(torch.arange(3))[0]
    for a, b in zip(fine.flatten(0, 1), found.flatten(0, 1), strict=True):
        means = torch.nn.functional.avg_pool3d(a[None], 2)[0]
        whole = torch.nn.functional.max_pool3d((a == 0).float()[None], 2)[0] == 0
        # Both are z-scores, of voxels and of means: the same picture up to contrast.
        assert np.corrcoef(means[whole], b[whole])[0, 1] > 0.9999


def test_left_and_right_are_where_nibabel_has_them(shared_data: Path) -> None:
    path = shared_data / "ms_mri_mini" / "patient07_FLAIR.nii.gz"
    assert nib.aff2axcodes(nib.load(path).affine) == ("L", "A", "S")
    expected = nib.as_closest_canonical(nib.load(path))
    found = read_nifti(path)
    np.testing.assert_array_equal(found.voxels, expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(found.affine, expected.affine)


def test_float16_loses_less_than_a_fiftieth_of_the_noise(shared_data: Path) -> None:
    """Rounding against the scan's own noise: the spread of differences of neighbouring voxels in
    the flattest tenth of places, over the square root of two."""
    path = shared_data / "ms_mri_mini" / "patient07_T2.nii.gz"
    scan = read_nifti(path)
    stack, _ = framed({"t2": scan}, volume.recipe_of("mri", modality(["t2"], **RECIPE)))
    z = scan.voxels[scan.voxels != 0].astype(np.float64)
    z = (z - z.mean()) / z.std()
    lost = np.abs(z - z.astype(np.float16))
    assert lost.max() < 0.005
    kept = stack[0].astype(np.float32)
    steps = np.diff(kept, axis=0)[(kept[1:] != 0) & (kept[:-1] != 0)]
    flattest = np.abs(steps)[np.abs(steps) <= np.quantile(np.abs(steps), 0.1)]
    noise = flattest.max() / np.sqrt(2)
    assert np.sqrt((lost**2).mean()) < noise / 50


def test_the_second_opening_reads_the_cache(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ms_mri_mini"
    first = read(folder, tmp_path / "cache").collate(torch.arange(3))[0]
    kept = sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.npy"))
    assert kept == pytest.approx(3 * 4 * 80 * 96 * 80 * 2, rel=0.01)
    assert torch.equal(first, read(folder, tmp_path / "cache").collate(torch.arange(3))[0])
