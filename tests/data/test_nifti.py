"""NIfTI files as they should be, and as they should not (scenario B11)."""

import contextlib
import gzip
import io
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from polyclinic.data.grid import MAX_VOXELS
from polyclinic.data.nifti import read_nifti, stored_grid
from polyclinic.data.quarantine import REASONS, file_hash
from polyclinic.errors import DataRejected

AFFINE = np.array([[2.0, 0, 0, -10], [0, 2, 0, -20], [0, 0, 3, -30], [0, 0, 0, 1]])


def voxels(seed: int = 0, shape: tuple[int, ...] = (6, 7, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = AFFINE, kind=nib.Nifti1Image):
    nib.save(kind(data, affine), path)
    return path


def altered(path: Path, change: Callable[[np.ndarray], None], data: np.ndarray | None = None):
    """A file whose header was changed after it was written."""
    data = voxels() if data is None else data
    raw = bytearray(nib.Nifti1Image(data, AFFINE).to_bytes())
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(bytes(raw[:348])), check=False)
    change(header.structarr)
    raw[:348] = header.structarr.tobytes()
    path.write_bytes(gzip.compress(bytes(raw), 1) if path.suffix == ".gz" else raw)
    return path


def put(field: str, value: object) -> Callable[[np.ndarray], None]:
    def change(header: np.ndarray) -> None:
        header[field] = value

    return change


def refusal(path: Path, **options: bool) -> DataRejected:
    with pytest.raises(DataRejected) as caught:
        read_nifti(path, **options)
    assert caught.value.reason in REASONS
    assert "smith" not in repr(caught.value.__dict__) + str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<f4", ">f8", "<i8"])
def test_a_file_reads_as_nibabel_reads_it(tmp_path: Path, name, kind, dtype) -> None:
    data = (voxels() % 100).astype(dtype)
    image = kind(data, AFFINE, dtype=np.dtype(dtype))
    nib.save(image, tmp_path / name)
    found = read_nifti(tmp_path / name)
    expected = nib.load(tmp_path / name)
    np.testing.assert_array_equal(found.voxels, expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(found.affine, AFFINE)
    assert found.spacing_mm == (2.0, 2.0, 3.0)
    assert found.voxels.dtype == np.float32
    assert found.voxels.flags.c_contiguous


def test_a_name_that_lies_about_gzip_does_not_matter(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", voxels())
    (tmp_path / "b.nii.gz").write_bytes(plain.read_bytes())
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("b.nii.gz", "c.nii"):
        np.testing.assert_array_equal(read_nifti(tmp_path / name).voxels, voxels())


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = altered(tmp_path / "a.nii", lambda h: (put("scl_slope", 0.5)(h), put("scl_inter", 3)(h)))
    np.testing.assert_allclose(read_nifti(path).voxels, voxels() * 0.5 + 3)


def test_extensions_of_the_header_are_skipped(tmp_path: Path) -> None:
    for size in (8, 5000):
        image = nib.Nifti1Image(voxels(), AFFINE)
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * size))
        for name in (f"{size}.nii", f"{size}.nii.gz"):
            nib.save(image, tmp_path / name)
            np.testing.assert_array_equal(read_nifti(tmp_path / name).voxels, voxels())


def test_a_trailing_axis_of_one_is_no_fourth_dimension(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", voxels()[..., None])
    assert read_nifti(path).voxels.shape == (6, 7, 8)


@pytest.mark.parametrize(("code", "millimetres"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_lengths_are_millimetres_whatever_the_file_counts_in(
    tmp_path: Path, code, millimetres
) -> None:
    def change(header: np.ndarray) -> None:
        header["xyzt_units"] = code
        for row in ("srow_x", "srow_y", "srow_z"):
            header[row] = header[row] / millimetres

    found = read_nifti(altered(tmp_path / "a.nii", change))
    np.testing.assert_allclose(found.affine, AFFINE, rtol=1e-5)


@pytest.mark.parametrize("axes", ["LAS", "LPS", "RPI", "PIR", "SAL", "IRP"])
def test_b11_a_flipped_volume_equals_its_ras_twin(tmp_path: Path, axes: str) -> None:
    twin = nib.Nifti1Image(voxels(), AFFINE)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(twin.as_reoriented(turn), tmp_path / "flipped.nii.gz")
    assert nib.aff2axcodes(nib.load(tmp_path / "flipped.nii.gz").affine) == tuple(axes)
    found = read_nifti(tmp_path / "flipped.nii.gz")
    assert np.abs(found.voxels - voxels()).max() == 0
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)


def test_b11_nan_and_infinite_voxels_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        data = voxels().astype(np.float32)
        data[1, 2, 3] = value
        assert refusal(save(tmp_path / "smith.nii.gz", data)).reason == "not_finite"


@pytest.mark.parametrize("value", [1e19, -1e30, 3e38])
def test_b11_numbers_too_large_to_normalise_are_refused(tmp_path: Path, value: float) -> None:
    data = voxels().astype(np.float32)
    data[1, 2, 3] = value
    assert refusal(save(tmp_path / "smith.nii.gz", data)).reason == "huge_values"


@pytest.mark.parametrize("case", ["zero", "nan", "singular", "none"])
def test_b11_an_affine_that_means_nothing_is_refused(tmp_path: Path, case: str) -> None:
    def change(header: np.ndarray) -> None:
        for i, row in enumerate(("srow_x", "srow_y", "srow_z")):
            header[row] = {"zero": 0.0, "nan": np.nan, "singular": float(i + 1)}.get(case, i)
        if case == "none":
            header["sform_code"] = header["qform_code"] = 0

    assert refusal(altered(tmp_path / "smith.nii", change)).reason == "bad_affine"


def test_b11_four_dimensions_are_refused(tmp_path: Path) -> None:
    assert (
        refusal(save(tmp_path / "smith.nii", voxels(0, (4, 4, 4, 3)))).reason == "wrong_dimensions"
    )
    assert refusal(save(tmp_path / "y.nii", voxels(0, (4, 4)))).reason == "wrong_dimensions"
    assert refusal(save(tmp_path / "z.nii", voxels(0, (4, 4, 1)))).reason == "wrong_dimensions"


def test_b11_an_empty_volume_is_refused(tmp_path: Path) -> None:
    (tmp_path / "smith.nii").write_bytes(b"")
    assert refusal(tmp_path / "smith.nii").reason == "empty_file"
    nothing = altered(tmp_path / "smith.nii", put("dim", [3, 6, 0, 8, 1, 1, 1, 1]))
    assert refusal(nothing).reason == "empty_file"
    zeros = save(tmp_path / "smith.nii", np.zeros((4, 4, 4), np.int16))
    assert refusal(zeros).reason == "constant_image"


def test_a_mask_may_be_empty(tmp_path: Path) -> None:
    path = save(tmp_path / "smith.nii", np.zeros((4, 4, 4), np.uint8))
    assert not read_nifti(path, mask=True).voxels.any()


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.02])
def test_b11_a_truncated_gz_is_refused(tmp_path: Path, kept: float) -> None:
    whole = save(tmp_path / "smith.nii.gz", voxels()).read_bytes()
    (tmp_path / "smith.nii.gz").write_bytes(whole[: int(len(whole) * kept)])
    error = refusal(tmp_path / "smith.nii.gz")
    assert error.reason == "unreadable"
    assert error.file_hash == file_hash(tmp_path / "smith.nii.gz")


def test_a_gz_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    whole = bytearray(save(tmp_path / "smith.nii.gz", voxels()).read_bytes())
    whole[-6] ^= 1
    (tmp_path / "smith.nii.gz").write_bytes(whole)
    assert refusal(tmp_path / "smith.nii.gz").reason == "unreadable"


@pytest.mark.parametrize("name", ["smith.nii", "smith.nii.gz"])
def test_b11_a_header_that_claims_54_gb_is_refused_before_memory_is_taken(
    tmp_path: Path, name: str
) -> None:
    path = altered(tmp_path / name, put("dim", [3, 3000, 3000, 3000, 1, 1, 1, 1]))
    assert 3000**3 * 2 == 54e9
    tracemalloc.start()
    try:
        start = time.perf_counter()
        assert refusal(path).reason == "too_large"
        assert time.perf_counter() - start < 0.5
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_claim_that_the_bytes_cannot_keep_is_refused_before_memory_is_taken(tmp_path) -> None:
    path = altered(tmp_path / "smith.nii.gz", put("dim", [3, 600, 600, 600, 1, 1, 1, 1]))
    error = refusal(path)
    assert error.reason == "unreadable"
    assert "fewer bytes" in error.got


def test_a_bomb_behind_the_voxels_is_not_inflated(tmp_path: Path) -> None:
    raw = nib.Nifti1Image(voxels(), AFFINE).to_bytes()
    (tmp_path / "smith.nii.gz").write_bytes(gzip.compress(raw + bytes(200 << 20), 1))
    tracemalloc.start()
    try:
        assert refusal(tmp_path / "smith.nii.gz").reason == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("datatype", 128, "wrong_dtype"),  # RGB
        ("datatype", 32, "wrong_dtype"),  # complex
        ("datatype", 999, "unreadable"),
        ("magic", b"ni1\0", "unreadable"),
        ("magic", b"zzz\0", "unreadable"),
        ("vox_offset", 40, "bad_header"),
        ("vox_offset", np.nan, "unreadable"),
        ("vox_offset", 1e9, "too_large"),
        ("scl_inter", np.inf, "unreadable"),
        ("dim", [3, -6, 7, 8, 1, 1, 1, 1], "unreadable"),
        ("dim", [99, 6, 7, 8, 1, 1, 1, 1], "wrong_dimensions"),
        ("xyzt_units", 5, "bad_affine"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, field, value, reason) -> None:
    assert refusal(altered(tmp_path / "smith.nii", put(field, value))).reason == reason


def test_two_places_in_one_header_are_told(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.set_qform(AFFINE, code=1)
    nib.save(image, tmp_path / "same.nii")
    moved = AFFINE.copy()
    moved[0, 3] += 50
    image.set_qform(moved, code=1)
    nib.save(image, tmp_path / "moved.nii")
    assert not read_nifti(tmp_path / "same.nii").doubtful
    assert read_nifti(tmp_path / "moved.nii").doubtful


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    assert refusal(tmp_path / "pipe.nii").reason == "unreadable"
    (tmp_path / "folder.nii").mkdir()
    assert refusal(tmp_path / "folder.nii").reason == "unreadable"
    assert refusal(tmp_path / "none.nii").reason == "missing_file"


def test_any_damage_ends_in_a_volume_or_a_refusal(tmp_path: Path) -> None:
    """500 files with bytes changed, cut or repeated; nothing but DataRejected, none over 1 s."""
    draw = np.random.default_rng(5)
    plain = nib.Nifti1Image(voxels(), AFFINE).to_bytes()
    for i in range(500):
        raw = bytearray(plain)
        for _ in range(int(draw.integers(1, 6))):
            raw[int(draw.integers(0, 348))] = int(draw.integers(0, 256))
        if i % 5 == 0:
            raw = raw[: int(draw.integers(0, len(raw)))]
        packed = bytearray(gzip.compress(bytes(raw), 1)) if i % 2 else raw
        if i % 3 == 0 and packed:
            packed[int(draw.integers(0, len(packed)))] ^= 1 << int(draw.integers(0, 8))
        path = tmp_path / "smith.nii"
        path.write_bytes(packed)
        start = time.perf_counter()
        with contextlib.suppress(DataRejected):
            found = read_nifti(path)
            assert np.isfinite(found.voxels).all()
            assert found.voxels.size <= MAX_VOXELS
        assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASR"])
def test_the_stored_grid_is_that_of_the_file_in_its_own_order(tmp_path: Path, axes: str) -> None:
    turned = nib.Nifti1Image(voxels(), AFFINE).as_reoriented(
        nib.orientations.axcodes2ornt(tuple(axes))
    )
    path = save(tmp_path / "a.nii.gz", np.asarray(turned.dataobj), turned.affine)
    affine, shape = stored_grid(path)
    np.testing.assert_allclose(affine, nib.load(path).affine)
    assert shape == nib.load(path).shape


def test_a_stored_grid_that_cannot_be_believed_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"no header at all"):
        (tmp_path / "a.nii").write_bytes(content)
        with pytest.raises(DataRejected):
            stored_grid(tmp_path / "a.nii")
