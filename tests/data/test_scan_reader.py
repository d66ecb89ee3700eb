"""Stacks from files: what is damaged costs itself, a mask that says nothing costs the patient."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from marked import SEQUENCES, SHAPE, Ward, a_study, marked, turned, z_scored
from polyclinic.data import sequence_reader
from polyclinic.data.asked import requests
from polyclinic.data.manifest import read_manifest
from polyclinic.data.quarantine import file_hash
from polyclinic.data.scan import scan_reader
from polyclinic.data.scan_reader import Found
from polyclinic.study import Study
from volumes import affine, head, write


def read(ward: Ward, study: Study | None = None) -> dict[str, Found]:
    """What became of each patient."""
    study, settings = study or a_study(), ward.settings()
    source = settings.cohort("tiny")
    manifest = read_manifest(source, study)
    reader = scan_reader(requests(settings, study, manifest), source, study, masks=True)
    ids = [p.key for p in manifest.patients]
    return dict(zip(ids, reader.all(ids), strict=True))


def test_all_sequences_and_the_mask_lie_on_one_grid(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(2)
    stack = read(ward)["p01"].stack
    assert stack is not None
    assert stack.there == SEQUENCES
    assert stack.lengths == SHAPE
    held, mask = stack.held.read(), stack.mask.read()
    assert (held.dtype, mask.dtype) == (np.float16, np.uint8)
    for j, found in enumerate(held):
        np.testing.assert_allclose(found, z_scored(head(10 + j, SHAPE)), atol=2e-3)
    np.testing.assert_array_equal(mask, marked(codes=(0, 1, 2)))
    np.testing.assert_allclose(stack.affine, affine())
    assert stack.voxels == (960 - 120, 116, 4)  # 5 x 6 x 4 voxels, 1 x 2 x 2 of them the core


def test_a_flipped_mask_is_turned_with_its_patient(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(1)
    before = read(ward)["p00"].stack
    turned(ward.path("p00", "seg"), "LPI")
    turned(ward.path("p00", "t1"), "SLA")
    after = read(ward)["p00"].stack
    np.testing.assert_array_equal(after.mask.read(), before.mask.read())
    np.testing.assert_array_equal(after.held.read(), before.held.read())


def test_a_damaged_sequence_costs_only_itself(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(3)
    cut, hole = ward.path("p00", "flair"), ward.path("p01", "t1ce")
    cut.write_bytes(cut.read_bytes()[:-100])
    voxels = head(3, SHAPE).astype(np.float32)
    voxels[3] = np.nan
    write(hole, voxels)
    write(ward.path("p02", "t1"), head(5, SHAPE), affine(2.0, (500, 0, 0)))
    huge = head(6, SHAPE).astype(np.float32)
    write(ward.path("p02", "t1ce"), huge / huge.max() * np.float32(3e38))
    for _ in range(2):  # the second time from the cache
        found = read(ward)
        assert found["p00"].stack.there == ("t1", "t1ce")
        assert found["p01"].stack.there == ("flair", "t1")
        assert found["p02"].stack.there == ("flair",)
        reasons = [(e.reason, e.modality, e.reference) for f in found.values() for e in f.entries]
        assert reasons == [
            ("unreadable", "flair", file_hash(cut)),
            ("not_finite", "t1ce", file_hash(hole)),
            ("different_grids", "t1", file_hash(ward.path("p02", "t1"))),
            ("huge_values", "t1ce", file_hash(ward.path("p02", "t1ce"))),
        ]


def test_a_patient_whose_scans_show_nothing_is_left_out_with_a_reason(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(2)
    for name in ("flair", "t1", "t1ce"):
        write(ward.path("p00", name), head(0, SHAPE) - 1000.0)
    for _ in range(2):
        found = read(ward, a_study(recipe={"box": True}))
        assert found["p00"].stack is None
        assert [e.reason for e in found["p00"].entries] == ["empty_volume"]
        assert found["p01"].stack is not None


def test_a_patient_without_a_mask_is_left_out_whole(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(2, [(0, "seg")])
    found = read(ward)
    assert found["p00"].stack is None
    assert [(e.reason, e.modality, e.patient) for e in found["p00"].entries] == [
        ("no_mask", "mask", "p00")
    ]
    assert found["p01"].entries == ()


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _other_number(path: Path) -> None:
    mask = marked()
    mask[0, 0, 0] = 1
    write(path, mask)


def _elsewhere(path: Path) -> None:
    write(path, marked(), affine(2.0, (300, 0, 0)))


def _nothing_finite(path: Path) -> None:
    write(path, np.full(SHAPE, np.nan, dtype=np.float32))


def _two_volumes(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2), np.uint8), affine()), path)


@pytest.mark.parametrize(
    "spoil", [_cut_short, _other_number, _elsewhere, _nothing_finite, _two_volumes]
)
def test_a_mask_that_says_nothing_of_the_scan_costs_the_patient(tmp_path: Path, spoil) -> None:
    ward = Ward(tmp_path)
    ward.patients(2)
    path = ward.path("p00", "seg")
    spoil(path)
    for _ in range(2):
        found = read(ward)
        assert found["p00"].stack is None
        (entry,) = found["p00"].entries
        assert (entry.reason, entry.modality) == ("bad_mask", "mask")
        assert entry.reference == file_hash(path)
        assert found["p01"].stack is not None


def test_a_mask_of_background_alone_is_a_mask(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(1)
    write(ward.path("p00", "seg"), np.zeros(SHAPE, np.uint8))
    assert read(ward)["p00"].stack.voxels == (960, 0, 0)


def test_the_cache_gives_the_same_without_reading_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyclinic.data import scan_reader as module

    ward = Ward(tmp_path)
    ward.patients(2, [(1, "t1")])
    before = read(ward)
    arrays = {p: (f.stack.held.read(), f.stack.mask.read()) for p, f in before.items()}
    monkeypatch.setattr(sequence_reader, "read_nifti", None)  # whoever calls it fails
    monkeypatch.setattr(module, "read_nifti", None)
    for p, found in read(ward).items():
        np.testing.assert_array_equal(found.stack.held.read(), arrays[p][0])
        np.testing.assert_array_equal(found.stack.mask.read(), arrays[p][1])
        np.testing.assert_array_equal(found.stack.affine, before[p].stack.affine)
        assert found.stack.voxels == before[p].stack.voxels


def test_a_cache_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(1)
    stack = read(ward)["p00"].stack
    before, mask = np.array(stack.held.read()), np.array(stack.mask.read())
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(stack.mask.read(), mask)
    np.testing.assert_array_equal(stack.held.read(), before)


def test_another_meaning_of_the_mask_is_another_mask(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(1)
    one = read(ward)["p00"].stack.mask.read()
    other = read(ward, a_study(mask={"values": [0, 4, 2]}))["p00"].stack.mask.read()
    np.testing.assert_array_equal(np.array([0, 2, 1])[one], other)


def test_nothing_of_a_name_is_in_the_cache(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    ward.patients(1)
    read(ward)
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert len(files) >= 8  # 4 grids, stack, place, mask, marks
    for path in files:
        assert "p00" not in path.name
        assert b"p00" not in path.read_bytes()


def test_a_withheld_sequence_decides_neither_the_grid_nor_the_box(tmp_path: Path) -> None:
    large = np.zeros((14, 16, 12), np.int16)
    large[1:-1, 1:-1, 1:-1] = np.random.default_rng(0).integers(100, 900, (12, 14, 10))
    study = a_study(recipe={"box": True, "size": [8, 8, 8]})
    for name in "ab":
        ward = Ward(tmp_path / name, held=("t1",), withheld=("flair",) if name == "b" else ())
        ward.patients(1)
        write(ward.path("p00", "flair"), large, affine(2.0, (-14.0, -16.0, -12.0)))
    one, other = (
        read(Ward(tmp_path / n, held=("t1",), withheld=w), study)["p00"].stack
        for n, w in (("a", ()), ("b", ("flair",)))
    )
    assert (one.there, other.there) == (("t1",), ("t1", "flair"))
    np.testing.assert_array_equal(one.held.read()[0], other.held.read()[0])
    np.testing.assert_array_equal(one.affine, other.affine)
