from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from polyclinic.data.slide import read_slide
from polyclinic.data.slide_origin import BagRecipe, Origin, same_mpp
from polyclinic.errors import DataError, DataRejected

BAG = np.arange(12, dtype=np.float32).reshape(4, 3)


def written(path: Path, dataset: str, on_file: Any = (), on_coords: Any = ()) -> Path:
    with h5py.File(path, "w") as file:
        file[dataset] = BAG
        file["coords"] = np.zeros((4, 2), np.int64)
        file.attrs.update(dict(on_file))
        file["coords"].attrs.update(dict(on_coords))
    return path


def origin(path: Path, layout: str) -> Origin:
    return read_slide(path, layout, 3, "").origin


def test_stamp_states_extractor_and_tiles(tmp_path) -> None:
    said = {
        "extractor": "ctranspath",
        "unit": "um",
        "tile_size_um": 256.0,
        "tile_size_px": 224,
        "stamp_version": "2.3.0",
        "feat_type": "tile",
    }
    found = origin(written(tmp_path / "s.h5", "feats", said), "stamp")
    assert found == Origin("ctranspath", 256.0, 224, 256 / 224, "um", "tile")


def test_trident_states_tiles_on_its_coordinates(tmp_path) -> None:
    """20x is 0.5 micrometres: 256 pixels are 128 micrometres."""
    said = {"patch_size": 256, "patch_size_level0": 512, "target_magnification": 20, "overlap": 0}
    found = origin(written(tmp_path / "s.h5", "features", (), said), "trident")
    assert (found.tile_px, found.mpp, found.tile_um) == (256, 0.5, 128.0)


def test_clam_states_no_resolution(tmp_path) -> None:
    """Its patch_size is in pixels of a level of unknown resolution."""
    said = {"patch_size": 256, "patch_level": 1}
    assert origin(written(tmp_path / "s.h5", "features", (), said), "clam") == Origin()


@pytest.mark.parametrize("strange", [b"\xff", "wide", -1.0, np.nan, 1e300, np.zeros(3)])
def test_strange_attributes_say_nothing(tmp_path, strange) -> None:
    said = {"tile_size_um": strange, "mpp": strange, "tile_size_px": strange}
    assert origin(written(tmp_path / "s.h5", "feats", said), "stamp") == Origin()


AGREED = BagRecipe(mpp=0.5, tile_px=224)
TILES = {
    "as agreed": ({"mpp": 0.5, "tile_size_px": 224}, ""),
    "as a scanner rounds": ({"mpp": 0.4990, "tile_size_px": 224}, ""),
    "unsaid": ({}, ""),
    "another resolution": ({"mpp": 0.25, "tile_size_px": 224}, "tile_mismatch"),
    "another edge": ({"mpp": 0.5, "tile_size_px": 256}, "tile_mismatch"),
    "in micrometres": ({"tile_size_um": 256.0, "tile_size_px": 224}, "tile_mismatch"),
    "of a whole slide": ({"feat_type": "slide"}, "wrong_shape"),
}


@pytest.mark.parametrize(("said", "reason"), TILES.values(), ids=TILES.keys())
def test_tiles_that_are_not_the_studys_are_refused(tmp_path, said, reason) -> None:
    path = written(tmp_path / "s.h5", "features", said)
    if not reason:
        assert read_slide(path, "clam", 3, "", AGREED).features.shape == (4, 3)
        return
    with pytest.raises(DataRejected) as refusal:
        read_slide(path, "clam", 3, "", AGREED)
    assert refusal.value.reason == reason


def test_resolutions_are_the_same_within_what_scanners_round() -> None:
    assert same_mpp(0.5, 0.4990)
    assert same_mpp(0.5, 0.5040)
    assert not same_mpp(0.5, 0.46)


def test_a_study_names_its_tiles_and_a_site_of_others_is_told_before_training(hospital) -> None:
    ids = hospital.patients(8)
    folder = hospital.bags("wsi", dict.fromkeys(ids, BAG), extractor="net", mpp=0.5)
    hospital.study_modalities["wsi"] |= {"extractor": "net", "recipe": {"mpp": 0.5}}
    assert hospital.open().quarantine.counts == {}
    with h5py.File(folder / f"{ids[0]}.h5", "a") as file:
        file.attrs["mpp"] = 1.0
    assert hospital.open().quarantine.counts == {"tile_mismatch": 1, "no_modality": 1}
    hospital.modalities["wsi"]["mpp"] = 1.0
    with pytest.raises(DataError, match=r"0\.5 micrometres per pixel.*got 1 declared"):
        hospital.open()


def test_files_that_do_not_state_their_tiles_are_counted(hospital) -> None:
    ids = hospital.patients(8)
    hospital.bags("wsi", dict.fromkeys(ids, BAG))
    hospital.study_modalities["wsi"]["recipe"] = {"tile_px": 224}
    notes = hospital.open().records.readings["wsi"].notes
    assert "8 file(s) do not state the size or resolution of tiles" in notes


def test_clams_pickles_are_not_read_and_the_error_says_what_to_bring(hospital) -> None:
    hospital.patients(8)
    folder = hospital.bags("wsi", {})
    (folder / "pt_files").mkdir()
    (folder / "pt_files" / "s.pt").write_bytes(b"")
    with pytest.raises(DataError, match="h5_files"):
        hospital.open()


def test_the_folder_of_a_whole_trident_run_is_read(hospital) -> None:
    ids = hospital.patients(8)
    run = hospital.root / "wsi"
    place = run / "20x_256px_0px_overlap" / "features_uni_v1"
    place.mkdir(parents=True)
    for name in ids:
        written(place / f"slide-{name}.h5", "features")
    rows = "".join(f"{i},slide-{i}\n" for i in ids)
    (place.parent / "slides.csv").write_text(f"patient_id,slide_id\n{rows}")
    declared = {"kind": "bag", "folder": "wsi", "layout": "trident", "extractor": "uni_v1"}
    hospital.modalities["wsi"] = declared
    hospital.study_modalities["wsi"] = {"kind": "bag", "dim": 3, "extractor": "uni_v1"}
    assert bool(hospital.open().records.readings["wsi"].column.present.all())
    (run / "10x_256px_0px_overlap").mkdir()
    with pytest.raises(DataError, match="one magnification"):
        hospital.open()
