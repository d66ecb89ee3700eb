"""Every layout gives the same files; names that lead elsewhere are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from polyclinic.data.volume_layout import VolumeFiles, volume_files
from polyclinic.errors import DataError, DataRejected
from volumes import modality, request

# Who has which sequence; p2 lacks two.
HELD = {"p1": ("t1", "t2", "flair"), "p2": ("t2",), "p3": ("t1", "t2", "flair")}
SITE_NAMES = {"t1": "T1w", "t2": "T2w", "flair": "FLAIR"}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.as_posix().encode())
    return path


def pairs() -> list[tuple[str, str]]:
    return [(p, s) for p, held in HELD.items() for s in held]


def by_folder(folder: Path) -> None:
    for p, s in pairs():
        touch(folder / p / f"{SITE_NAMES[s]}.nii.gz")


def by_folder_and_name(folder: Path) -> None:
    for p, s in pairs():
        touch(folder / "HGG" / p / f"{p}_{SITE_NAMES[s].lower()}.nii.gz")


def by_name(folder: Path) -> None:
    for p, s in pairs():
        touch(folder / f"{p}_{SITE_NAMES[s]}.nii")
    touch(folder / "p1_LESION.nii.gz")


def by_table(folder: Path) -> None:
    lines = ["patient_id,file,sequence"]
    for i, (p, s) in enumerate(pairs()):
        touch(folder / f"scans/{i}.nii.gz")
        lines.append(f"{p},scans/{i}.nii.gz,{SITE_NAMES[s]}")
    (folder / "files.csv").write_text("\n".join([*lines, "p2,,T1w"]) + "\n")


def by_datalist(folder: Path) -> None:
    items = [
        {"patient_id": p, "image": {s: f"{p}/{s}.nii.gz" for s in held} | {"flair2": None}}
        for p, held in HELD.items()
    ]
    for p, s in pairs():
        touch(folder / p / f"{s}.nii.gz")
    named = {"training": items[:1], "validation": items[1:2], "testing": items[2:]}
    (folder.parent / "datalist.json").write_text(json.dumps(named))


def by_nnunet(folder: Path) -> None:
    order = {"0": "FLAIR", "1": "T1w", "2": "T2w", "3": "SWI"}
    described = {"channel_names": order, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(described))
    number = {name: n for n, name in order.items()}
    for p, s in pairs():
        part = "imagesTs" if p == "p3" else "imagesTr"
        touch(folder / part / f"{p}_000{number[SITE_NAMES[s]]}.nii.gz")
    touch(folder / "imagesTr" / "p1_0003.nii.gz")
    touch(folder / "labelsTr" / "p1.nii.gz")


def by_bids(folder: Path) -> None:
    for p, s in pairs():
        touch(folder / f"sub-{p}" / "anat" / f"sub-{p}_{SITE_NAMES[s]}.nii.gz")
    touch(folder / "sub-p1" / "anat" / "sub-p1_ce-gad_T1w.nii.gz")
    touch(folder / "sub-p1" / "dwi" / "sub-p1_dwi.nii.gz")


LAYOUTS: dict[str, tuple[Callable[[Path], None], dict[str, str], int]] = {
    "folders": (by_folder, {}, 0),
    "folders and names": (by_folder_and_name, {}, 0),
    "names": (by_name, {}, 1),
    "table": (by_table, {}, 0),
    "datalist": (by_datalist, {"files": "datalist.json"}, 0),
    "nnunet": (by_nnunet, {"layout": "nnunet"}, 2),
    "bids": (by_bids, {"layout": "bids"}, 2),
}


def told(found: VolumeFiles) -> dict[str, tuple[str, ...]]:
    order = list(SITE_NAMES)
    return {p: tuple(sorted(m, key=order.index)) for p, m in sorted(found.files.items()) if m}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_tells_whose_each_sequence_is(tmp_path: Path, layout: str) -> None:
    write, source, unlisted = LAYOUTS[layout]
    write(tmp_path / "mri")
    found = volume_files(request(tmp_path, sequences=SITE_NAMES, **source))
    assert told(found) == HELD
    assert (found.entries, found.duplicates, found.outside) == ((), 0, 0)
    assert found.unlisted == unlisted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_other_patients_are_counted_and_not_read(tmp_path: Path, layout: str) -> None:
    write, source, _ = LAYOUTS[layout]
    write(tmp_path / "mri")
    found = volume_files(request(tmp_path, ids=("p1",), sequences=SITE_NAMES, **source))
    assert set(found.files) == {"p1"}
    assert found.outside == 4


def test_a_list_of_images_is_in_the_order_of_the_panel(tmp_path: Path) -> None:
    images = [f"./x/p1/p1_{i}.nii.gz" for i in range(3)]
    for image in images:
        touch(tmp_path / "mri" / image)
    items = [{"image": images, "label": "p1_seg.nii.gz"}, {"image": images[:2]}, {"image": 7}, 8]
    (tmp_path / "list.json").write_text(json.dumps({"training": items}))
    found = volume_files(request(tmp_path, files="list.json"))
    # Whose they are stands in the path; two images for three sequences could be any two.
    numbers = {s: paths[0].name for s, paths in found.files["p1"].items()}
    assert numbers == {"t1": "p1_0.nii.gz", "t2": "p1_1.nii.gz", "flair": "p1_2.nii.gz"}
    assert [e.reason for e in found.entries] == ["ragged_row"] * 3
    assert found.entries[0].reference == "datalist item 2"


def test_a_list_may_bring_its_own_order(tmp_path: Path) -> None:
    images = [f"p1_{i}.nii.gz" for i in range(3)]
    for image in images:
        touch(tmp_path / "mri" / image)
    content = {"modality": {"0": "FLAIR", "1": "T1w", "2": "T2w"}, "training": [{"image": images}]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    found = volume_files(request(tmp_path, files="list.json", sequences=SITE_NAMES))
    assert {s: p[0].name for s, p in found.files["p1"].items()} == {
        "flair": "p1_0.nii.gz",
        "t1": "p1_1.nii.gz",
        "t2": "p1_2.nii.gz",
    }


def test_test_items_may_be_file_names_alone(tmp_path: Path) -> None:
    touch(tmp_path / "mri" / "imagesTs" / "p1.nii.gz")
    (tmp_path / "list.json").write_text(json.dumps({"test": ["./imagesTs/p1.nii.gz"]}))
    found = volume_files(request(tmp_path, asked=modality(["ct"]), files="list.json"))
    assert list(found.files["p1"]) == ["ct"]


@pytest.mark.parametrize("content", ["[]", "{", "", '{"training": 3}'])
def test_what_is_no_datalist_is_refused_or_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "mri").mkdir()
    (tmp_path / "list.json").write_text(content)
    asked = request(tmp_path, files="list.json")
    if content.startswith("{") and content.endswith("}"):
        assert not volume_files(asked).files
    else:
        with pytest.raises(DataError, match="JSON"):
            volume_files(asked)


@pytest.mark.parametrize(
    "name", ["../secret.nii.gz", "/etc/secret.nii.gz", "a/../../secret.nii.gz", "..", "a\nb.nii"]
)
@pytest.mark.parametrize("kind", ["table", "datalist"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name: str, kind: str) -> None:
    touch(tmp_path / "secret.nii.gz")
    (tmp_path / "mri").mkdir()
    if kind == "table":
        (tmp_path / "mri" / "files.csv").write_text(f'patient_id,file,sequence\np1,"{name}",t1\n')
        found = volume_files(request(tmp_path))
    else:
        items = {"training": [{"patient_id": "p1", "image": {"t1": name}}]}
        (tmp_path / "list.json").write_text(json.dumps(items))
        found = volume_files(request(tmp_path, files="list.json"))
    assert not any(found.files.values())
    assert [(e.reason, e.patient) for e in found.entries] == [("unsafe_name", "p1")]
    assert "secret" not in repr(found.entries)


@pytest.mark.parametrize("kind", ["names", "table"])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path, kind: str) -> None:
    outside = touch(tmp_path / "elsewhere" / "p1_t1.nii.gz")
    (tmp_path / "mri").mkdir()
    (tmp_path / "mri" / "p1_t1.nii.gz").symlink_to(outside)
    inside = touch(tmp_path / "mri" / "real" / "scan.nii.gz")
    (tmp_path / "mri" / "p2_t1.nii.gz").symlink_to(inside)
    if kind == "table":
        rows = "patient_id,file,sequence\np1,p1_t1.nii.gz,t1\np2,p2_t1.nii.gz,t1\n"
        (tmp_path / "mri" / "files.csv").write_text(rows)
    found = volume_files(request(tmp_path))
    assert [e.reason for e in found.entries] == ["unsafe_name"]
    assert told(found) == {"p2": ("t1",)}


def test_a_second_file_of_a_sequence_is_a_duplicate(tmp_path: Path) -> None:
    touch(tmp_path / "mri" / "p1" / "t1.nii.gz")
    touch(tmp_path / "mri" / "p1" / "t1.nii")
    touch(tmp_path / "mri" / "p1" / "p1_T1.nii.gz")
    found = volume_files(request(tmp_path))
    assert (found.duplicates, told(found)) == (2, {"p1": ("t1",)})


def test_of_several_bids_sessions_the_site_names_one(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        touch(tmp_path / "mri" / "sub-p1" / session / "anat" / f"sub-p1_{session}_T1w.nii.gz")
    asked = modality(["t1"])
    both = volume_files(request(tmp_path, asked=asked, layout="bids", sequences={"t1": "T1w"}))
    assert both.duplicates == 1
    names = {"t1": "ses-2_T1w"}
    one = volume_files(request(tmp_path, asked=asked, layout="bids", sequences=names))
    assert one.duplicates == 0
    assert one.files["p1"]["t1"][0].name == "sub-p1_ses-2_T1w.nii.gz"


def test_bids_patients_may_be_listed_with_their_prefix(tmp_path: Path) -> None:
    touch(tmp_path / "mri" / "sub-01" / "anat" / "sub-01_t1.nii.gz")
    for ids in (("sub-01",), ("01",)):
        assert told(volume_files(request(tmp_path, ids=ids, layout="bids"))) == {ids[0]: ("t1",)}


def test_a_modality_of_one_sequence_needs_no_word_for_it(tmp_path: Path) -> None:
    touch(tmp_path / "mri" / "p1.nii.gz")
    touch(tmp_path / "mri" / "p2" / "anything.nii.gz")
    found = volume_files(request(tmp_path, asked=modality(["ct"])))
    assert told_one(found) == {"p1", "p2"}


def told_one(found: VolumeFiles) -> set[str]:
    return {p for p, mine in found.files.items() if list(mine) == ["ct"]}


def test_what_a_layout_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder of modality 'mri'"):
        volume_files(request(tmp_path))
    (tmp_path / "mri").mkdir()
    with pytest.raises(DataError, match=r"dataset\.json"):
        volume_files(request(tmp_path, layout="nnunet"))
    (tmp_path / "mri" / "files.csv").write_text("patient_id,file\np1,a.nii\n")
    with pytest.raises(DataRejected):
        volume_files(request(tmp_path))
    with pytest.raises(DataError, match="stands for two"):
        volume_files(request(tmp_path, sequences={"t1": "T1", "t2": "t1"}))


def test_one_sequence_needs_no_word_unless_another_file_has_it(tmp_path: Path) -> None:
    """A folder of four sequences of which a study reads one: the others are not that one."""
    for name in ("p1/p1_t1.nii.gz", "p1/p1_t1ce.nii.gz", "p1/p1_seg.nii.gz", "p2/scan.nii.gz"):
        touch(tmp_path / "mri" / name)
    found = volume_files(request(tmp_path, asked=modality(["t1"])))
    names = {p: mine["t1"][0].name for p, mine in found.files.items()}
    assert names == {"p1": "p1_t1.nii.gz", "p2": "scan.nii.gz"}
    assert (found.duplicates, found.unlisted) == (0, 2)
