import h5py
import numpy as np
import pytest

from polyclinic.data.quarantine import REASONS
from polyclinic.data.slide import read_slide, slide_folder
from polyclinic.errors import DataError, DataRejected

BAG = np.arange(12, dtype=np.float32).reshape(4, 3)


def written(path, name="features", bag=BAG, attributes=None, on_dataset=None):
    with h5py.File(path, "w") as file:
        file[name] = bag
        file["coords"] = np.zeros((4, 2))
        file.attrs.update(attributes or {})
        file[name].attrs.update(on_dataset or {})
    return path


@pytest.mark.parametrize(("layout", "name"), [("clam", "features"), ("stamp", "feats")])
def test_each_layout_has_its_dataset(tmp_path, layout: str, name: str) -> None:
    slide = read_slide(written(tmp_path / "s.h5", name), layout, 3, "")
    np.testing.assert_array_equal(slide.features, BAG)


def test_trident_may_carry_a_leading_axis_of_one(tmp_path) -> None:
    slide = read_slide(written(tmp_path / "s.h5", bag=BAG[None]), "trident", 3, "")
    np.testing.assert_array_equal(slide.features, BAG)


def test_half_precision_becomes_float32(tmp_path) -> None:
    slide = read_slide(written(tmp_path / "s.h5", bag=BAG.astype(np.float16)), "clam", 3, "")
    assert slide.features.dtype == np.float32
    np.testing.assert_array_equal(slide.features, BAG)


def test_stamp_tells_extractor_and_tile_size(tmp_path) -> None:
    attributes = {"extractor": "uni", "unit": "um", "tile_size_um": 256.0}
    slide = read_slide(
        written(tmp_path / "s.h5", "feats", attributes=attributes), "stamp", 3, "uni"
    )
    assert (slide.tile_um, slide.stated) == (256.0, True)


FLAWS = {
    "wrong_width": {"bag": np.zeros((4, 5))},
    "empty_file": {"bag": np.zeros((0, 3))},
    "wrong_shape": {"bag": np.zeros((2, 4, 3))},
    "wrong_dtype": {"bag": np.array([[b"a", b"b", b"c"]])},
    "not_finite": {"bag": np.array([[1.0, np.nan, 2.0]])},
    "no_dataset": {"name": "embeddings"},
    "extractor_mismatch": {"on_dataset": {"encoder": "conch"}},
    "unit_mismatch": {"attributes": {"unit": "px"}},
}


@pytest.mark.parametrize(("reason", "flaw"), FLAWS.items(), ids=FLAWS.keys())
def test_a_flawed_file_is_rejected_with_its_reason_and_hash(tmp_path, reason, flaw) -> None:
    path = written(tmp_path / "secret-slide.h5", **flaw)
    with pytest.raises(DataRejected) as refusal:
        read_slide(path, "clam", 3, "uni")
    assert refusal.value.reason == reason
    assert len(refusal.value.file_hash) == 12
    assert "secret" not in str(refusal.value)


def test_infinity_beyond_float32_is_not_finite(tmp_path) -> None:
    path = written(tmp_path / "s.h5", bag=np.array([[1e300, 0.0, 0.0]]))
    with pytest.raises(DataRejected) as refusal:
        read_slide(path, "clam", 3, "")
    assert refusal.value.reason == "not_finite"


def test_a_file_that_claims_terabytes_is_refused_before_it_is_read(tmp_path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("features", (10**12, 3), np.float32, chunks=(1024, 3))
    with pytest.raises(DataRejected) as refusal:
        read_slide(tmp_path / "s.h5", "clam", 3, "")
    assert refusal.value.reason == "too_large"


@pytest.mark.parametrize(
    "link", [h5py.ExternalLink("other.h5", "features"), h5py.SoftLink("/coords")]
)
def test_a_file_that_points_elsewhere_is_refused(tmp_path, link) -> None:
    written(tmp_path / "other.h5")
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["features"] = link
    with pytest.raises(DataRejected) as refusal:
        read_slide(tmp_path / "s.h5", "clam", 3, "")
    assert refusal.value.reason == "linked_data"


def test_external_storage_is_refused(tmp_path) -> None:
    (tmp_path / "raw").write_bytes(BAG.tobytes())
    with h5py.File(tmp_path / "s.h5", "w") as file:
        external = [(str(tmp_path / "raw"), 0, BAG.nbytes)]
        file.create_dataset("features", BAG.shape, BAG.dtype, external=external)
    with pytest.raises(DataRejected) as refusal:
        read_slide(tmp_path / "s.h5", "clam", 3, "")
    assert refusal.value.reason == "linked_data"


def test_a_missing_file_is_told_apart_from_a_damaged_one(tmp_path) -> None:
    with pytest.raises(DataRejected) as refusal:
        read_slide(tmp_path / "s.h5", "clam", 3, "")
    assert (refusal.value.reason, refusal.value.file_hash) == ("missing_file", "")


@pytest.mark.parametrize("seed", range(150))
def test_a_mutated_file_is_read_or_rejected(tmp_path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = bytearray(written(tmp_path / "s.h5").read_bytes())
    for at in rng.integers(0, len(raw), 20):
        raw[at] = int(rng.integers(256))
    keep = int(rng.integers(0, len(raw))) if seed % 3 == 0 else len(raw)
    (tmp_path / "s.h5").write_bytes(raw[:keep])
    reason = ""
    try:
        slide = read_slide(tmp_path / "s.h5", "clam", 3, "")
    except DataRejected as refusal:
        reason = refusal.reason
    if reason:
        assert reason in REASONS
    else:
        assert np.isfinite(slide.features).all()
        assert slide.features.shape[1] == 3


def test_clam_features_lie_in_h5_files(tmp_path) -> None:
    (tmp_path / "h5_files").mkdir()
    assert slide_folder(tmp_path, "clam", "") == tmp_path / "h5_files"


def test_trident_features_are_found_by_the_declared_encoder(tmp_path) -> None:
    for encoder in ("uni", "conch"):
        (tmp_path / f"features_{encoder}").mkdir()
    assert slide_folder(tmp_path, "trident", "uni") == tmp_path / "features_uni"
    assert slide_folder(tmp_path / "features_uni", "trident", "uni") == tmp_path / "features_uni"
    for declared in ("", "gigapath"):
        with pytest.raises(DataError, match="extractor"):
            slide_folder(tmp_path, "trident", declared)


def test_a_folder_that_is_not_there_is_told_without_its_path(tmp_path) -> None:
    with pytest.raises(DataError, match="no such folder") as refusal:
        slide_folder(tmp_path / "secret", "stamp", "")
    assert "secret" not in str(refusal.value)


def test_a_slide_that_would_unpack_to_more_than_a_gibibyte_is_refused_unread(tmp_path) -> None:
    """2**25 instances of 8 numbers are 2**30 bytes as float32; one more instance is too many."""
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", shape=(2**25 + 1, 8), dtype="i1", chunks=(1 << 16, 8))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataRejected) as refusal:
        read_slide(path, "clam", 8, "")
    assert refusal.value.reason == "too_large"


def test_a_chunk_larger_than_its_slide_may_be_is_refused_unread(tmp_path) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        chunks, room = (2**25 + 1, 8), (None, 8)
        file.create_dataset("features", shape=(2, 8), maxshape=room, dtype="i1", chunks=chunks)
    with pytest.raises(DataRejected) as refusal:
        read_slide(path, "clam", 8, "")
    assert refusal.value.reason == "too_large"
