"""Which files belong to which patient."""

import os
from pathlib import Path

import pytest

from polyclinic.data.column import Request
from polyclinic.data.files import (
    FILM_SUFFIXES,
    FileTable,
    files_in,
    is_safe,
    leads_out,
    read_files,
    stem,
)
from polyclinic.errors import DataError, DataRejected
from polyclinic.settings import Source
from polyclinic.study import Modality

IDS = ("p1", "p2", "Jürgen")


def a_request(root: Path, **source: object) -> Request:
    declared = Source.model_validate({"kind": "image", "folder": "films", **source})
    return Request("cxr", Modality(kind="image"), declared, root, "patient_id", IDS)


def films(root: Path, *names: str) -> None:
    for name in names:
        path = root / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"film")


def a_table(root: Path, *lines: str, name: str = "files.csv") -> None:
    (root / name).write_text("\n".join(("patient_id,file", *lines)) + "\n")


def named(table: FileTable, root: Path) -> dict[str, list[str]]:
    return {
        p: [f.path.relative_to(root / "films").as_posix() for f in files]
        for p, files in table.files.items()
    }


def reasons(table: FileTable) -> list[tuple[str, str, str]]:
    return [(e.reason, e.reference, e.patient) for e in table.entries]


def test_without_a_table_a_file_or_its_folder_is_named_for_its_patient(tmp_path: Path) -> None:
    films(tmp_path, "p1.dcm", "p2/IM0001", "p2/1.2.840.10008.12", "p2/sub/b.PNG", "p9.jpeg")

    table = read_files(a_request(tmp_path), FILM_SUFFIXES)

    assert named(table, tmp_path) == {
        "p1": ["p1.dcm"],
        "p2": ["p2/1.2.840.10008.12", "p2/IM0001", "p2/sub/b.PNG"],
    }
    assert [f.sequence for f in table.files["p2"]] == ["1.2.840.10008.12", "IM0001", "b"]
    assert (table.outside, table.duplicates, table.unlisted) == (1, 0, 0)


def test_other_and_hidden_files_are_no_films(tmp_path: Path) -> None:
    films(tmp_path, "p1/Thumbs.db", "p1/.DS_Store", "p1/DICOMDIR", "p1/notes.txt", ".x/p1.dcm")
    assert files_in(tmp_path / "films", FILM_SUFFIXES) == {}
    assert read_files(a_request(tmp_path), FILM_SUFFIXES).files == {}


def test_a_table_says_whose_each_file_is(tmp_path: Path) -> None:
    films(tmp_path, "a/2.dcm", "a/1.dcm", "b.png", "c.png")
    a_table(tmp_path, "p1,a/2.dcm", "p1,./a/1.dcm", "p2,b.png", "p2,", "p7,c.png")

    table = read_files(a_request(tmp_path), FILM_SUFFIXES)

    assert named(table, tmp_path) == {"p1": ["a/1.dcm", "a/2.dcm"], "p2": ["b.png"]}
    assert (table.outside, table.duplicates, table.unlisted) == (1, 0, 0)


@pytest.mark.parametrize("place", ["files.csv", "films/files.csv", "whose.csv"])
def test_the_table_lies_in_the_root_in_the_folder_or_where_the_source_says(
    tmp_path: Path, place: str
) -> None:
    films(tmp_path, "a.png", "b.png")
    a_table(tmp_path, "p1,a.png", name=place)
    source = {"files": place} if place == "whose.csv" else {}

    table = read_files(a_request(tmp_path, **source), FILM_SUFFIXES)

    assert named(table, tmp_path) == {"p1": ["a.png"]}
    assert table.unlisted == 1


def test_a_name_that_leaves_the_folder_is_refused_and_never_opened(tmp_path: Path) -> None:
    films(tmp_path, "a.png")
    (tmp_path / "secret.png").write_bytes(b"film")
    unsafe = ["../secret.png", str(tmp_path / "secret.png"), "x/../../secret.png"]
    a_table(tmp_path, *(f"p1,{name}" for name in unsafe), "p2,a.png")

    table = read_files(a_request(tmp_path), FILM_SUFFIXES)

    assert named(table, tmp_path) == {"p2": ["a.png"]}
    assert reasons(table) == [("unsafe_name", f"file table line {n}", "p1") for n in (2, 3, 4)]


def test_an_empty_or_unprintable_name_is_not_safe() -> None:
    assert not any(is_safe(n) for n in ("", ".", "/", "a\nb", "..", "a/.."))
    assert is_safe("a b/ü.dcm")


def test_a_listed_file_that_is_not_there_costs_itself_only(tmp_path: Path) -> None:
    films(tmp_path, "a.png")
    a_table(tmp_path, "p1,a.png", "p1,gone.png", "p8,gone too.png")

    table = read_files(a_request(tmp_path), FILM_SUFFIXES)

    assert named(table, tmp_path) == {"p1": ["a.png"]}
    assert reasons(table) == [("missing_file", "file table line 3", "p1")]
    assert table.outside == 1


def test_a_file_under_two_patients_or_twice_is_a_duplicate(tmp_path: Path) -> None:
    films(tmp_path, "a.png", "b.png")
    a_table(tmp_path, "p1,a.png", "p2,a.png", "p2,b.png", "p2,./b.png")
    assert read_files(a_request(tmp_path), FILM_SUFFIXES).duplicates == 2


def test_ragged_rows_and_rows_without_a_patient_are_left_out(tmp_path: Path) -> None:
    films(tmp_path, "a.png")
    a_table(tmp_path, "p1,a.png,more", ",a.png", "p1,a.png")
    table = read_files(a_request(tmp_path), FILM_SUFFIXES)
    assert [r for r, _, _ in reasons(table)] == ["ragged_row", "no_patient_id"]
    assert named(table, tmp_path) == {"p1": ["a.png"]}


def test_letters_composed_in_another_way_are_the_same_file(tmp_path: Path) -> None:
    films(tmp_path, "Ju\u0308rgen.png")  # as some file systems write ü
    a_table(tmp_path, "J\u00fcrgen,J\u00fcrgen.png")
    assert list(read_files(a_request(tmp_path), FILM_SUFFIXES).files) == ["J\u00fcrgen"]


def test_sequences_are_a_column_of_the_table(tmp_path: Path) -> None:
    films(tmp_path, "a.nii.gz", "b.nii")
    suffixes = frozenset({".nii", ".nii.gz"})
    (tmp_path / "files.csv").write_text("patient_id,file,sequence\np1,a.nii.gz,T1\np1,b.nii,T2\n")

    table = read_files(a_request(tmp_path), suffixes, sequences=True)

    assert [f.sequence for f in table.files["p1"]] == ["T1", "T2"]
    assert stem("a.nii.gz", suffixes) == "a"
    a_table(tmp_path, "p1,a.nii.gz")
    with pytest.raises(DataRejected):
        read_files(a_request(tmp_path), suffixes, sequences=True)


def test_no_folder_and_no_file_column_refuse_the_modality(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_files(a_request(tmp_path), FILM_SUFFIXES)
    films(tmp_path, "a.png")
    (tmp_path / "files.csv").write_text("patient_id,path\np1,a.png\n")
    with pytest.raises(DataRejected):
        read_files(a_request(tmp_path), FILM_SUFFIXES)


def test_b09_a_file_does_not_show_its_name(tmp_path: Path) -> None:
    films(tmp_path, "p1.dcm")
    table = read_files(a_request(tmp_path), FILM_SUFFIXES)
    assert "p1" not in repr(table)
    assert "p1" not in repr(table.files["p1"])


def test_a_film_named_in_another_encoding_is_nobody_elses(tmp_path: Path) -> None:
    films(tmp_path, "x.png")
    folder = os.fsencode(tmp_path / "films")
    os.rename(folder + b"/x.png", folder + b"/p\xe41.png")  # "pä1" in Latin-1, not "p1"
    table = read_files(a_request(tmp_path), FILM_SUFFIXES)
    assert (named(table, tmp_path), table.outside) == ({}, 1)


def test_a_name_longer_than_any_file_has_costs_its_row_only(tmp_path: Path) -> None:
    films(tmp_path, "a.png")
    a_table(tmp_path, f"p1,{'n' * 300}.png", f"p1,{'d/' * 3000}x.png", "p2,a.png")
    table = read_files(a_request(tmp_path), FILM_SUFFIXES)
    assert named(table, tmp_path) == {"p2": ["a.png"]}
    assert [r for r, _, _ in reasons(table)] == ["missing_file"] * 2


def test_links_out_of_the_folder_and_in_a_circle_are_told_apart_from_files(tmp_path: Path) -> None:
    films(tmp_path, "a.png")
    folder, other = tmp_path / "films", tmp_path / "other.png"
    other.write_bytes(b"film")
    (folder / "out.png").symlink_to(other)
    (folder / "round.png").symlink_to(folder / "round.png")
    (folder / "in.png").symlink_to(folder / "a.png")
    names = ("a.png", "in.png", "out.png", "round.png")
    assert [leads_out(folder / n, folder) for n in names] == [False, False, True, True]
