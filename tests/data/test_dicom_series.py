"""A DICOM series is the volume that it was cut from, or is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from polyclinic.data import volume
from polyclinic.data.column import Request
from polyclinic.data.dicom_series import read_series
from polyclinic.data.nifti import read_nifti
from polyclinic.data.quarantine import REASONS, file_hash
from polyclinic.errors import DataRejected
from series import slices, write_series
from volumes import modality, request

SHAPE = (7, 9, 6)
UIDS = ("1.2.3.1", "1.2.3.2")


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, SHAPE)


def placed(case: str) -> np.ndarray:
    """Affines in RAS whose first two axes are columns and rows of a slice."""
    turn = {
        "axial": np.diag([-0.8, -1.2, 3.0]),
        "feet first": np.diag([-0.8, -1.2, -3.0]),
        "sagittal": np.array([[0, 0, 3.0], [-0.8, 0, 0], [0, -1.2, 0]]),
        "coronal": np.array([[-0.8, 0, 0], [0, 0, -3.0], [0, -1.2, 0]]),
    }
    made = np.eye(4)
    made[:3, 3] = (12.5, -30.25, 7.0)
    if case in turn:
        made[:3, :3] = turn[case]
    elif case == "oblique":
        angle = 0.3
        about = np.array(
            [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
        )
        made[:3, :3] = about @ turn["axial"]
    else:  # the gantry of a CT, tilted: slices lean
        made[:3, :3] = turn["axial"]
        made[1, 2] = 3.0 * np.tan(0.35)
    return made


CASES = ("axial", "feet first", "sagittal", "coronal", "oblique", "tilted")


@pytest.mark.parametrize("case", CASES)
def test_a_series_equals_the_same_volume_as_nifti(tmp_path: Path, case: str) -> None:
    stored, affine = voxels(), placed(case)
    paths = write_series(tmp_path / "s", slices(stored, affine, slope=0.5, intercept=-100))
    nib.save(nib.Nifti1Image((stored * 0.5 - 100).astype(np.float32), affine), tmp_path / "a.nii")
    found, expected = read_series(paths), read_nifti(tmp_path / "a.nii")
    assert np.abs(found.voxels - expected.voxels).max() == 0
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_slices_are_the_same_volume(tmp_path: Path, syntax) -> None:
    plain = write_series(tmp_path / "a", slices(voxels(), placed("axial")))
    packed = write_series(tmp_path / "b", slices(voxels(), placed("axial")), syntax=syntax)
    assert np.array_equal(read_series(plain).voxels, read_series(packed).voxels)


def test_signed_values_are_read(tmp_path: Path) -> None:
    def signed(datasets: list[Dataset]) -> None:
        for one in datasets:
            pixels = np.frombuffer(one.PixelData, "<u2").astype("<i2") - 2000
            one.PixelData, one.PixelRepresentation = pixels.tobytes(), 1

    paths = write_series(tmp_path, slices(voxels(), placed("axial")), signed)
    found = read_series(paths).voxels
    assert found.min() == voxels().min() - 2000
    assert np.array_equal(np.sort(found.ravel()), np.sort((voxels() - 2000).ravel()))


def alter(n: int, **elements: object) -> Callable[[list[Dataset]], None]:
    def change(datasets: list[Dataset]) -> None:
        for keyword, value in elements.items():
            setattr(datasets[n], keyword, value)

    return change


def moved(n: int, by: tuple[float, float, float]) -> Callable[[list[Dataset]], None]:
    def change(datasets: list[Dataset]) -> None:
        old = datasets[n].ImagePositionPatient
        datasets[n].ImagePositionPatient = [a + b for a, b in zip(old, by, strict=True)]

    return change


def without(keyword: str) -> Callable[[list[Dataset]], None]:
    return lambda datasets: delattr(datasets[2], keyword)


DAMAGE: dict[str, tuple[Callable[[list[Dataset]], object], str]] = {
    "a gap": (lambda d: d.pop(3), "missing_slices"),
    "a repeated slice": (lambda d: d.append(d[2]), "missing_slices"),
    "one slice": (lambda d: d.__delitem__(slice(1, None)), "missing_slices"),
    "an uneven distance": (moved(3, (0, 0, 1.0)), "missing_slices"),
    "a slice aside": (moved(3, (9.0, 0, 0)), "different_grids"),
    "another turn": (alter(0, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "different_grids"),
    "another spacing": (alter(0, PixelSpacing=[1.0, 1.0]), "different_grids"),
    "two series": (alter(0, SeriesInstanceUID="9.9"), "ambiguous_series"),
    "a crooked plane": (alter(0, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "bad_affine"),
    "no position": (without("ImagePositionPatient"), "bad_header"),
    "no spacing": (without("PixelSpacing"), "bad_header"),
    "zero spacing": (lambda d: [setattr(s, "PixelSpacing", [0, 0]) for s in d], "bad_affine"),
    "no pixels": (without("PixelData"), "no_pixels"),
    "frames": (alter(1, NumberOfFrames=5), "multi_frame"),
    "burned in": (alter(1, BurnedInAnnotation="YES"), "burned_in"),
    "inverted": (alter(1, PhotometricInterpretation="MONOCHROME1"), "unsupported_photometric"),
    "no slope": (alter(1, RescaleSlope=0), "bad_header"),
    "cut pixels": (lambda d: setattr(d[1], "PixelData", d[1].PixelData[:40]), "unreadable"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_no_volume_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    change, reason = DAMAGE[case]
    paths = write_series(tmp_path / "smith", slices(voxels(), placed("axial")), change)
    with pytest.raises(DataRejected) as caught:
        read_series(paths)
    assert caught.value.reason == reason
    assert caught.value.reason in REASONS
    assert caught.value.file_hash in {file_hash(p) for p in paths}
    assert "smith" not in str(caught.value)


def test_burned_in_text_may_be_accepted(tmp_path: Path) -> None:
    change = alter(1, BurnedInAnnotation="YES")
    paths = write_series(tmp_path, slices(voxels(), placed("axial")), change)
    assert read_series(paths, burned_in="accept").voxels.shape == SHAPE


def test_slices_of_one_value_are_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, slices(np.zeros(SHAPE, int), placed("axial")))
    with pytest.raises(DataRejected) as caught:
        read_series(paths)
    assert caught.value.reason == "constant_image"


def test_any_damage_ends_in_a_volume_or_a_refusal(tmp_path: Path) -> None:
    """100 series of which one slice has bytes changed or is cut."""
    paths = write_series(tmp_path, slices(voxels(), placed("axial")))
    draw, whole = np.random.default_rng(3), paths[2].read_bytes()
    refused = 0
    for i in range(100):
        raw = bytearray(whole)
        for _ in range(3):
            raw[int(draw.integers(132, len(raw)))] = int(draw.integers(0, 256))
        paths[2].write_bytes(raw if i % 4 else raw[: int(draw.integers(0, len(raw)))])
        try:
            assert np.isfinite(read_series(paths).voxels).all()
        except DataRejected:
            refused += 1
    assert 0 < refused < 100


def hospital(root: Path) -> Path:
    """p1: a folder a series; p2: all in one folder, by description and UID, with a scout."""
    a, b = slices(voxels(1), placed("axial")), slices(voxels(2), placed("oblique"))
    write_series(root / "mri" / "p1" / "study" / "T1", a)
    write_series(root / "mri" / "p1" / "study" / "FLAIR", b)
    c = slices(voxels(3), placed("axial"), description="t1 mprage")
    d = slices(voxels(4), placed("axial"), uid=UIDS[0], description="whatever")
    scout = slices(voxels(5), placed("coronal"), description="scout")
    write_series(root / "mri" / "p2", [*c, *d, *scout])
    return root


def asked(root: Path, t1: str = "T1", **options: object) -> Request:
    names = {"t1": t1, "t2": "T2", "flair": "FLAIR"} | dict(options.pop("names", {}))
    return request(root, layout="dicom", sequences=names, **options)


def test_series_are_found_by_folder_by_description_and_by_uid(tmp_path: Path) -> None:
    root = hospital(tmp_path)
    by_folder = volume.read(asked(root))
    assert by_folder.column.fields.tolist() == [[True, False, True], [False] * 3, [False] * 3]
    assert by_folder.notes == ("18 file(s) belong to no sequence of the study",)
    named = volume.read(asked(root, t1="T1 mprage", names={"t2": UIDS[0]}))
    assert named.column.fields.tolist() == [[False, False, True], [True, True, False], [False] * 3]
    assert by_folder.entries == named.entries == ()


def test_a_stack_of_dicom_equals_the_stack_of_nifti(tmp_path: Path) -> None:
    affine = placed("axial")
    write_series(tmp_path / "a" / "mri" / "p1" / "T1", slices(voxels(), affine))
    (tmp_path / "b" / "mri").mkdir(parents=True)
    image = nib.Nifti1Image(voxels().astype(np.int16), affine)
    nib.save(image, tmp_path / "b" / "mri" / "p1_T1.nii.gz")
    recipe = modality(crop="centre", spacing_mm=[1, 1, 3])
    dicom = volume.read(asked(tmp_path / "a", asked=recipe)).column.collate(torch.arange(1))
    nifti = volume.read(request(tmp_path / "b", asked=recipe)).column.collate(torch.arange(1))
    assert dicom[1].tolist() == nifti[1].tolist() == [[True, False, False]]
    # Positions are written with 9 digits; float16 has 11 bits.
    torch.testing.assert_close(dicom[0], nifti[0], atol=2e-3, rtol=0)


def test_two_series_of_one_name_cost_that_sequence_only(tmp_path: Path) -> None:
    root = hospital(tmp_path)
    again = slices(voxels(6), placed("axial"), description="t1 mprage")
    write_series(tmp_path / "more", again)
    for path in (tmp_path / "more").iterdir():
        shutil.copy(path, root / "mri" / "p2" / f"again_{path.name}.dcm")
    reading = volume.read(asked(root, t1="t1 MPRAGE", names={"t2": UIDS[0]}))
    assert [(e.reason, e.patient) for e in reading.entries] == [("ambiguous_series", "p2")]
    assert reading.column.fields[1].tolist() == [False, True, False]


def test_a_file_that_is_no_dicom_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    root = hospital(tmp_path)
    (root / "mri" / "p2" / "NOTES").write_bytes(b"hello")
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        reading = volume.read(asked(root, t1="t1 mprage", cache=cache))
        assert [(e.reason, e.patient) for e in reading.entries] == [("not_an_image", "p2")]
        assert reading.entries[0].reference == file_hash(root / "mri" / "p2" / "NOTES")
        assert reading.column.fields[1].tolist() == [True, False, False]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = hospital(tmp_path)
    secret = write_series(tmp_path / "elsewhere", slices(voxels(), placed("axial")))[0]
    (root / "mri" / "p1" / "study" / "T1" / "link").symlink_to(secret)
    reading = volume.read(asked(root))
    assert [e.reason for e in reading.entries] == ["unsafe_name"]
    assert reading.column.fields[0].tolist() == [True, False, True]


def test_no_description_and_no_name_is_kept_in_the_cache(tmp_path: Path) -> None:
    root = hospital(tmp_path)
    volume.read(asked(root, t1="t1 mprage", cache=tmp_path / "cache"))
    kept = b"".join(p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file())
    for told in (b"mprage", b"scout", UIDS[0].encode(), b"p2"):
        assert told not in kept
