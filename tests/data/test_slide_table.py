import pytest

from polyclinic.data.cohort import requests
from polyclinic.data.manifest import read_manifest
from polyclinic.data.slide_table import read_slide_table, slide_name
from polyclinic.errors import DataRejected


def table_of(hospital, text: str, files=("s1", "s2", "s3"), ids=("p1", "p2"), **source):
    hospital.manifest([(p, "yes") for p in ids])
    folder = hospital.bags("wsi", {}, **source)
    for stem in files:
        (folder / f"{stem}.h5").touch()
    if text:
        (folder / "slides.csv").write_text(text)
    settings, study = hospital.settings(), hospital.study()
    manifest = read_manifest(settings.cohort("tiny"), study)
    (request,) = requests(settings, study, manifest)
    return read_slide_table(request, folder), folder


def test_without_a_table_a_file_is_named_for_its_patient(hospital) -> None:
    table, folder = table_of(hospital, "", files=("p1", "p9"))
    assert table.files == {"p1": (folder / "p1.h5",)}
    assert table.outside == 1


def test_slides_of_a_patient_come_in_the_order_of_their_names(hospital) -> None:
    table, folder = table_of(hospital, "patient_id,slide_id\np1,s3\np2,s2\np1,s1\np9,s4\n")
    assert table.files["p1"] == (folder / "s1.h5", folder / "s3.h5")
    assert (table.outside, table.unlisted, table.duplicates) == (1, 0, 0)


@pytest.mark.parametrize("header", ["case_id,slide_id", "PATIENT,FILENAME", "patient_id,filename"])
def test_the_headers_of_clam_and_stamp_are_known(hospital, header: str) -> None:
    table, folder = table_of(hospital, f"{header}\np1,s1.h5\n")
    assert table.files == {"p1": (folder / "s1.h5",)}
    assert table.unlisted == 2


def test_b15_a_slide_of_two_patients_is_counted_once_too_often(hospital) -> None:
    table, _ = table_of(hospital, "patient_id,slide_id\np1,s1\np2,s1\np2,s2\np2,s2\n")
    assert table.duplicates == 2


@pytest.mark.parametrize("name", ["../s1", "/etc/s1", "", "a/b"])
def test_a_name_that_leaves_the_folder_is_set_aside(hospital, name: str) -> None:
    table, _ = table_of(hospital, f"patient_id,slide_id\np1,{name}\n,s2\np1,s1,more\n")
    assert sorted(e.reason for e in table.entries) == [
        "no_patient_id",
        "ragged_row",
        "unsafe_name",
    ]
    assert table.files == {}


def test_a_table_without_slides_is_refused(hospital) -> None:
    with pytest.raises(DataRejected, match="'slide_id'"):
        table_of(hospital, "patient_id,stain\np1,he\n")


def test_the_source_may_name_its_table(hospital) -> None:
    (hospital.root / "mine.csv").write_text("patient_id,slide_id\np2,s2\n")
    table, folder = table_of(hospital, "", slides="mine.csv")
    assert table.files == {"p2": (folder / "s2.h5",)}


def test_extensions_of_images_are_dropped_and_points_in_names_kept() -> None:
    assert [slide_name(n) for n in ("a.svs", "a.b.h5", "TCGA-1.2", "a")] == [
        "a",
        "a.b",
        "TCGA-1.2",
        "a",
    ]
