"""Which files are whose sequences and masks, in one folder or in several."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from marked import SEQUENCES
from polyclinic.data.column import Request
from polyclinic.data.scan_layout import ScanFiles, scan_files
from polyclinic.errors import DataError
from polyclinic.settings import MaskSource, Source
from polyclinic.study import Modality

IDS = ("p1", "p2")


def asked(root: Path, names: Sequence[str] = SEQUENCES, **source: Any) -> list[Request]:
    """A request for each sequence, all in the folder ``mri`` unless ``source`` says otherwise."""
    found = []
    for name in names:
        declared = {"kind": "volume", "folder": "mri", **source, **source.get(name, {})}
        declared = {k: v for k, v in declared.items() if k not in SEQUENCES}
        modality = Modality(kind="volume", features=(name,))
        found.append(Request(name, modality, Source(**declared), root, "patient_id", IDS))
    return found


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def told(found: ScanFiles, root: Path) -> dict[str, dict[str, str]]:
    """Names by patient and sequence, the mask as ``seg``."""
    names = {
        p: {m: str(paths[0].relative_to(root)) for m, paths in mine.items()}
        for p, mine in found.sequences.items()
        if mine
    }
    for p, paths in found.masks.items():
        names.setdefault(p, {})["seg"] = str(paths[0].relative_to(root))
    return names


SEG = MaskSource(folder="mri")


def test_a_mask_among_the_sequences_is_told_apart_from_them(tmp_path: Path) -> None:
    files = {w: f"mri/p1/p1_{w}.nii.gz" for w in (*SEQUENCES, "seg")}
    put(tmp_path, *files.values(), "mri/p2/p2_t1.nii.gz")
    found = scan_files(asked(tmp_path), SEG)
    assert told(found, tmp_path) == {"p1": files, "p2": {"t1": "mri/p2/p2_t1.nii.gz"}}
    assert found.unlisted == 0


def test_what_a_site_does_not_declare_is_no_other_sequence(tmp_path: Path) -> None:
    put(tmp_path, *(f"mri/p1/p1_{w}.nii.gz" for w in (*SEQUENCES, "t2", "seg")))
    for mask, masks in ((SEG, True), (SEG, False), (None, False)):
        found = scan_files(asked(tmp_path, ["t1"]), mask, masks=masks)
        mine = told(found, tmp_path)["p1"]
        assert mine["t1"] == "mri/p1/p1_t1.nii.gz"
        assert set(mine) - {"seg"} == {"t1"}
        assert not any(listed.duplicates for listed in found.listings.values())
    assert scan_files(asked(tmp_path, ["t1"]), SEG).unlisted == 3


def test_sequences_and_masks_may_have_folders_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, "a/p1.nii.gz", "b/p1_t1.nii.gz", "truth/p1.nii.gz", "truth/p2.nii.gz")
    requests = asked(tmp_path, ["flair", "t1"], flair={"folder": "a"}, t1={"folder": "b"})
    found = scan_files(requests, MaskSource(folder="truth"))
    assert told(found, tmp_path) == {
        "p1": {"flair": "a/p1.nii.gz", "t1": "b/p1_t1.nii.gz", "seg": "truth/p1.nii.gz"},
        "p2": {"seg": "truth/p2.nii.gz"},
    }
    assert set(found.listings) == {"flair", "t1", "the mask"}


def test_a_mask_has_the_sites_word(tmp_path: Path) -> None:
    put(tmp_path, "mri/p1_t1.nii.gz", "mri/p1_GTV.nii.gz")
    found = scan_files(asked(tmp_path, ["t1"]), MaskSource(folder="mri", name="gtv"))
    assert told(found, tmp_path)["p1"]["seg"] == "mri/p1_GTV.nii.gz"


def test_nnunets_masks_lie_beside_its_images(tmp_path: Path) -> None:
    put(tmp_path, "mri/imagesTr/p1_0000.nii.gz", "mri/imagesTr/p1_0001.nii.gz")
    put(tmp_path, "mri/labelsTr/p1.nii.gz", "mri/labelsTs/p2.nii.gz", "mri/imagesTs/p2_0001.nii.gz")
    (tmp_path / "mri" / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T1W", "1": "flair"}})
    )
    requests = asked(tmp_path, ["flair", "t1"], layout="nnunet", sequences={"t1": "T1w"})
    found = scan_files(requests, MaskSource(folder="mri", layout="nnunet"))
    assert told(found, tmp_path) == {
        "p1": {
            "t1": "mri/imagesTr/p1_0000.nii.gz",
            "flair": "mri/imagesTr/p1_0001.nii.gz",
            "seg": "mri/labelsTr/p1.nii.gz",
        },
        "p2": {"flair": "mri/imagesTs/p2_0001.nii.gz", "seg": "mri/labelsTs/p2.nii.gz"},
    }
    assert found.unlisted == 0


def test_bids_masks_have_a_suffix_of_their_own(tmp_path: Path) -> None:
    here = "mri/sub-p1/anat/sub-p1"
    there = "mri/derivatives/truth/sub-p1/anat/sub-p1_dseg.nii.gz"
    put(tmp_path, f"{here}_T1w.nii.gz", f"{here}_FLAIR.nii.gz", f"{here}_dseg.nii.gz", there)
    words = {"t1": "T1w"}
    requests = asked(tmp_path, ["flair", "t1"], layout="bids", sequences=words)
    beside = MaskSource(folder="mri", layout="bids", name="dseg")
    assert told(scan_files(requests, beside), tmp_path)["p1"]["seg"] == f"{here}_dseg.nii.gz"
    apart = MaskSource(folder="mri/derivatives/truth", layout="bids", name="dseg")
    assert told(scan_files(requests, apart), tmp_path)["p1"]["seg"] == there


def test_a_table_lists_masks_as_it_lists_sequences(tmp_path: Path) -> None:
    put(tmp_path, "mri/1.nii.gz", "mri/2.nii.gz", "mri/3.nii.gz")
    rows = ["patient_id,file,sequence", "p1,1.nii.gz,T1", "p1,2.nii.gz,seg", "p2,3.nii.gz,flair"]
    (tmp_path / "mri" / "files.csv").write_text("\n".join(rows) + "\n")
    assert told(scan_files(asked(tmp_path), SEG), tmp_path) == {
        "p1": {"t1": "mri/1.nii.gz", "seg": "mri/2.nii.gz"},
        "p2": {"flair": "mri/3.nii.gz"},
    }


def datalist(root: Path, **content: object) -> list[Request]:
    items = [
        {"patient_id": "p1", "image": ["1.nii.gz", "2.nii.gz"], "label": "3.nii.gz"},
        {"patient_id": "p2", "image": ["4.nii.gz", "5.nii.gz"]},
    ]
    put(root, *(f"mri/{i}.nii.gz" for i in range(1, 6)))
    (root / "list.json").write_text(json.dumps({"training": items, **content}))
    return asked(root, ["flair", "t1"], files="list.json")


def test_the_label_of_a_datalist_is_the_mask(tmp_path: Path) -> None:
    requests = datalist(tmp_path, channel_names={"0": "t1", "1": "flair"})
    found = scan_files(requests, MaskSource(folder="mri", files="list.json"))
    assert told(found, tmp_path) == {
        "p1": {"t1": "mri/1.nii.gz", "flair": "mri/2.nii.gz", "seg": "mri/3.nii.gz"},
        "p2": {"t1": "mri/4.nii.gz", "flair": "mri/5.nii.gz"},
    }
    assert not any(listed.entries for listed in found.listings.values())


def test_images_in_an_order_that_nothing_explains_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="channel_names"):
        scan_files(datalist(tmp_path), MaskSource(folder="mri", files="list.json"))


def test_masks_are_not_looked_for_when_nobody_asks(tmp_path: Path) -> None:
    put(tmp_path, "mri/p1_t1.nii.gz")
    apart = MaskSource(folder="nowhere")
    assert scan_files(asked(tmp_path, ["t1"]), apart, masks=False).masks == {}
    with pytest.raises(DataError, match="the folder of modality 'mask'"):
        scan_files(asked(tmp_path, ["t1"]), apart)


def test_a_second_mask_of_a_patient_is_a_duplicate(tmp_path: Path) -> None:
    put(tmp_path, "mri/p1/t1.nii.gz", "mri/p1/seg.nii.gz", "mri/p1/p1_seg.nii.gz")
    found = scan_files(asked(tmp_path, ["t1"]), SEG)
    assert sum(listed.duplicates for listed in found.listings.values()) == 1
