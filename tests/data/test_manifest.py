import pandas as pd
import pytest

from polyclinic.data.manifest import read_manifest
from polyclinic.errors import DataError, StudyError


def manifest_of(hospital):
    hospital.study_modalities = {"v": {"kind": "vector", "features": ["a"]}}
    hospital.modalities = {"v": {"kind": "vector", "table": "v.csv"}}
    return read_manifest(hospital.settings().cohort("tiny"), hospital.study())


def test_patients_are_sorted_so_that_row_order_does_not_matter(hospital) -> None:
    rows = [("b", "no"), ("a", "yes"), ("c", "no")]
    hospital.manifest(rows)
    once = manifest_of(hospital).patients
    assert [(p.pseudonym, p.label) for p in once] == [("a", 1), ("b", 0), ("c", 0)]
    hospital.manifest(rows[::-1])
    assert [(p.pseudonym, p.label) for p in manifest_of(hospital).patients] == [
        (p.pseudonym, p.label) for p in once
    ]


def test_a_row_without_id_or_label_is_set_aside_by_reason_and_line(hospital) -> None:
    hospital.manifest([("a", "yes"), ("", "no"), ("c", "maybe"), ("d", ""), ("e", "no", "extra")])
    found = manifest_of(hospital)
    assert [p.pseudonym for p in found.patients] == ["a"]
    assert sorted((e.reason, e.reference) for e in found.entries) == [
        ("bad_label", "manifest line 4"),
        ("bad_label", "manifest line 5"),
        ("no_patient_id", "manifest line 3"),
        ("ragged_row", "manifest"),
    ]
    assert found.rows == 5


def test_whole_number_labels_may_carry_a_point(hospital) -> None:
    hospital.manifest([("a", "1.0"), ("b", "0"), ("c", "0.5")])
    hospital.study_modalities = {"v": {"kind": "vector", "features": ["a"]}}
    hospital.modalities = {"v": {"kind": "vector", "table": "v.csv"}}
    study = hospital.study().model_copy(
        update={"task": hospital.study().task.model_copy(update={"classes": ("0", "1")})}
    )
    found = read_manifest(hospital.settings().cohort("tiny"), study)
    assert [(p.pseudonym, p.label) for p in found.patients] == [("a", 1), ("b", 0)]


def test_b15_duplicates_and_leaks_are_counted_and_refused_without_an_id(hospital) -> None:
    hospital.split = {"source": "manifest"}
    rows = [("secret-1", "yes", "train"), ("secret-1", "yes", "test"), ("b", "no", "val")]
    hospital.manifest([*rows, ("b", "no", "validation")], "patient_id,outcome,split")
    found = manifest_of(hospital)
    assert (found.duplicates, found.leaks) == (2, 1)
    with pytest.raises(DataError, match="got repeated rows") as refusal:
        found.require_distinct()
    assert "secret" not in str(refusal.value)


def test_split_words_of_many_tools_mean_three_splits(hospital) -> None:
    hospital.split = {"source": "manifest"}
    words = ["train", "Training", "val", "valid", "dev", "VALIDATION", "test", "elsewhere"]
    rows = [(f"p{i}", "no", w) for i, w in enumerate(words)]
    hospital.manifest(rows, "patient_id,outcome,split")
    found = manifest_of(hospital)
    assert [p.split for p in found.patients] == ["train"] * 2 + ["validation"] * 4 + ["test"]
    assert [e.reason for e in found.entries] == ["bad_split"]


def test_a_missing_column_is_named(hospital) -> None:
    hospital.manifest([("a", "yes")], "patient_id,diagnosis")
    with pytest.raises(DataError, match="'outcome'"):
        manifest_of(hospital)


def test_a_parquet_manifest_equals_its_csv_twin(hospital) -> None:
    hospital.manifest([(1, "yes"), (2, "no")])
    frame = pd.read_csv(hospital.root / "manifest.csv")
    frame.to_parquet(hospital.root / "manifest.parquet")
    text = manifest_of(hospital)
    source = hospital.settings().cohort("tiny").model_copy(update={"manifest": "manifest.parquet"})
    assert read_manifest(source, hospital.study()).patients == text.patients


def test_no_id_is_in_the_representation_of_a_patient_or_entry(hospital) -> None:
    hospital.manifest([("secret-1", "yes"), ("secret-2", "?")])
    found = manifest_of(hospital)
    assert "secret" not in repr(found)


def test_a_study_whose_label_is_the_patient_is_refused_before_a_row_is_counted(hospital) -> None:
    hospital.patients(6)
    hospital.vector("v", {"p000": (1, 2, 3)})
    asked = hospital.study()
    task = asked.task.model_copy(update={"label": "patient_id", "classes": ("p000", "-")})
    study = asked.model_copy(update={"task": task})
    with pytest.raises(StudyError, match="not the patient") as refusal:
        read_manifest(hospital.settings().cohort("tiny"), study)
    assert "p000" not in str(refusal.value)


def test_an_index_that_stands_for_the_patient_is_no_label_either(hospital) -> None:
    frame = pd.DataFrame({"outcome": ["yes", "no"]}, index=pd.Index(["a", "b"], name="case"))
    frame.to_parquet(hospital.root / "manifest.parquet")
    hospital.vector("v", {"a": (1, 2, 3)})
    asked = hospital.study()
    source = hospital.settings().cohort("tiny").model_copy(update={"manifest": "manifest.parquet"})
    assert [p.pseudonym for p in read_manifest(source, asked).patients] == ["a", "b"]
    task = asked.task.model_copy(update={"label": "case", "classes": ("a", "-")})
    with pytest.raises(StudyError, match="not the patient"):
        read_manifest(source, asked.model_copy(update={"task": task}))


def labelled(hospital, rows):
    hospital.task = {
        "labels": {
            "pneumonia": {},
            "view_ap": {"column": "view", "positive": ["AP"], "negative": ["PA"]},
        }
    }
    hospital.manifest(rows, "patient_id,pneumonia,view")
    return manifest_of(hospital)


def test_a_patient_with_one_known_label_is_kept_and_one_with_none_is_set_aside(hospital) -> None:
    found = labelled(hospital, [("a", 1, "AP"), ("b", "", "PA"), ("c", -1, ""), ("d", "0.0", "")])
    kept = [(p.pseudonym, p.label) for p in found.patients]
    assert kept == [("a", (1, 1)), ("b", (-1, 0)), ("d", (0, -1))]
    assert [(e.reason, e.reference, e.partial) for e in found.entries] == [
        ("bad_label", "manifest line 4", False)
    ]


def test_a_strange_cell_costs_that_label_and_not_the_patient(hospital) -> None:
    found = labelled(hospital, [("a", 1, "sideways"), ("b", "perhaps", "perhaps")])
    assert [(p.pseudonym, p.label) for p in found.patients] == [("a", (1, -1))]
    assert [(e.reason, e.reference, e.partial) for e in found.entries] == [
        ("bad_label", "manifest line 2", True),
        ("bad_label", "manifest line 3", False),
    ]


def test_every_label_column_is_needed(hospital) -> None:
    hospital.task = {"labels": {"pneumonia": {}, "effusion": {}}}
    hospital.manifest([("a", 1)], "patient_id,pneumonia")
    with pytest.raises(DataError, match="'effusion'"):
        manifest_of(hospital)


def test_a_row_is_a_record_where_the_site_names_their_column(hospital) -> None:
    hospital.films([2, 1])
    found = manifest_of(hospital)
    assert [(p.pseudonym, p.key) for p in found.patients] == [
        ("p000", "f000-0"),
        ("p000", "f000-1"),
        ("p001", "f001-0"),
    ]
    assert found.owners.tolist() == [0, 0, 1]
    assert (found.rows, found.people, found.duplicates) == (3, 2, 0)
    found.require_distinct()


def test_without_records_every_row_is_a_patient_of_its_own(hospital) -> None:
    hospital.manifest([("b", "no"), ("a", "yes"), ("", "no")])
    found = manifest_of(hospital)
    assert found.owners.tolist() == [0, 1]
    assert found.people == found.rows == 3


def test_b15_a_record_that_stands_twice_is_refused_also_under_two_patients(hospital) -> None:
    hospital.films([1, 1])
    rows = [("secret-1", "f1", "yes"), ("secret-2", "f1", "no")]
    hospital.manifest(rows, "patient_id,film_id,outcome")
    found = manifest_of(hospital)
    assert found.duplicates == 1
    with pytest.raises(DataError, match="repeated rows") as refusal:
        found.require_distinct()
    assert "secret" not in str(refusal.value)


def test_b15_a_patient_whose_records_are_in_two_splits_is_a_leak(hospital) -> None:
    hospital.films([1])
    hospital.split = {"source": "manifest"}
    rows = [("a", "f1", "yes", "train"), ("a", "f2", "yes", "test"), ("b", "f3", "no", "train")]
    hospital.manifest(rows, "patient_id,film_id,outcome,split")
    found = manifest_of(hospital)
    assert (found.leaks, found.duplicates) == (1, 0)
    with pytest.raises(DataError, match="one split"):
        found.require_distinct()


def test_a_row_without_record_is_set_aside_and_patients_are_counted(hospital) -> None:
    hospital.films([1])
    rows = [("a", "f1", "yes"), ("a", "", "yes"), ("", "f3", "no"), ("b", "f4", "?")]
    hospital.manifest(rows, "patient_id,film_id,outcome")
    found = manifest_of(hospital)
    assert [p.key for p in found.patients] == ["f1"]
    assert [e.reason for e in found.entries] == ["no_record_id", "no_patient_id", "bad_label"]
    # a, b and the row without a patient.
    assert (found.rows, found.people) == (4, 3)


def test_a_manifest_without_the_sites_record_column_is_told_to_the_data_manager(hospital) -> None:
    hospital.manifest([("a", "yes")])
    hospital.records = "film_id"
    with pytest.raises(DataError, match="record_column"):
        manifest_of(hospital)


def test_records_of_a_parquet_manifest_equal_those_of_its_csv_twin(hospital) -> None:
    hospital.films([2, 1])
    frame = pd.read_csv(hospital.root / "manifest.csv")
    frame.to_parquet(hospital.root / "manifest.parquet")
    text = manifest_of(hospital)
    source = hospital.settings().cohort("tiny").model_copy(update={"manifest": "manifest.parquet"})
    assert read_manifest(source, hospital.study()).patients == text.patients


def test_a_study_whose_label_is_the_record_is_refused(hospital) -> None:
    hospital.films([2])
    hospital.task = {"labels": {"a": {"column": "film_id", "positive": ["f000-0"]}}}
    with pytest.raises(StudyError, match="not the patient"):
        manifest_of(hospital)
