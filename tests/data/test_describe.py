import json

import numpy as np
import torch

from polyclinic.data.bag import BagColumn
from polyclinic.data.check import check_cohort
from polyclinic.data.describe import describe_cohort, missingness, patterns, share
from polyclinic.data.vector import VectorColumn


def test_patterns_name_what_a_patient_carries() -> None:
    present = {
        "a": torch.tensor([True, True, False, False]),
        "b": torch.tensor([True, True, True, False]),
    }
    assert patterns(present, torch.arange(4)) == {"a+b": 2, "b": 1, "none": 1}


def test_missingness_is_over_patients_that_carry_the_modality() -> None:
    fields = torch.ones(30, 2, dtype=torch.bool)
    fields[:12, 1] = False
    fields[25:] = False  # five patients without the modality
    column = VectorColumn(torch.zeros(30, 2), fields)
    # 12 of 50 values of 25 patients are absent, all in the second field.
    assert missingness(column, ("a", "b"), 11) == {"share": 0.24, "worst_fields": {"b": 0.48}}


def test_a_share_that_reveals_a_small_group_is_hidden() -> None:
    assert [share(n, 30, 11) for n in (0, 1, 10, 11, 19, 20, 29, 30)] == [
        0.0,
        "hidden",
        "hidden",
        0.367,
        0.633,
        "hidden",
        "hidden",
        1.0,
    ]


def test_a_cohort_is_described_without_small_counts_or_ids(hospital) -> None:
    ids = hospital.patients(60)
    hospital.vector("v", {p: (i, "", 1) for i, p in enumerate(ids[:40])})
    hospital.bags("wsi", {p: np.ones((2 + i % 3, 2)) for i, p in enumerate(ids[20:])})
    said = describe_cohort(hospital.open())
    assert said["patterns"] == {"v": 20, "v+wsi": 20, "wsi": 20}
    # 30 of each class, a quarter of each (rounded: 8) held out; nobody is drawn for validation.
    assert said["splits"] == {"train": 44, "test": 16}
    assert said["modalities"]["v"]["patients"] == 40
    assert said["modalities"]["v"]["missing"]["worst_fields"] == {"b": 1.0}
    assert said["modalities"]["wsi"]["instances"] == {"q1": 2.0, "median": 3.0, "q3": 4.0}
    assert not any(p in json.dumps(said) for p in ids)


def test_a_tiny_cohort_tells_nothing_that_counts_single_patients(hospital) -> None:
    ids = hospital.patients(8)
    hospital.vector("v", {p: (i, "", 1) for i, p in enumerate(ids)})
    said = describe_cohort(hospital.open())
    assert said["patients"] == "<11"
    assert said["modalities"]["v"]["missing"] == {}


def test_a_kind_describes_itself_to_describe_and_check(hospital, monkeypatch) -> None:
    ids = hospital.patients(20)
    hospital.bags("wsi", {p: np.ones((2, 2), np.float32) * i for i, p in enumerate(ids)})
    asked = []

    class Told(BagColumn):
        def summary(self, minimum: int) -> dict[str, int | str]:
            asked.append(minimum)
            return {"tiles": 40, "edge": "256 px"}

    monkeypatch.setattr("polyclinic.data.bag.BagColumn", Told)
    monkeypatch.setattr("polyclinic.data.describe.BagColumn", VectorColumn)  # as if unknown
    described = describe_cohort(hospital.open())
    report = check_cohort(hospital.settings(), hospital.study())

    assert described["modalities"]["wsi"]["summary"] == {"tiles": 40, "edge": "256 px"}
    (told,) = [f for f in report.findings if f.check == "content"]
    assert (told.level, told.message, told.modality) == ("ok", "tiles 40, edge 256 px", "wsi")
    assert asked == [hospital.settings().minimum_cell] * 2


def test_many_films_of_few_patients_are_described_as_few_patients(hospital) -> None:
    films = hospital.films([10, 10, 10])
    hospital.vector("v", {f: (i, "", 1) for i, f in enumerate(films)})
    said = describe_cohort(hospital.open())
    assert (said["patients"], said["records"]) == ("<11", "<11")
    assert said["patterns"] == {"v": "<11"}
    assert set(said["splits"].values()) <= {"<11"}
    assert said["modalities"]["v"]["patients"] == "<11"
    assert said["modalities"]["v"]["missing"] == {}


def test_films_and_patients_are_both_told_where_there_are_enough(hospital) -> None:
    films = hospital.films([2] * 60)
    hospital.vector("v", {f: (i, 1, 2) for i, f in enumerate(films)})
    said = describe_cohort(hospital.open())
    assert (said["patients"], said["records"]) == (60, 120)
    assert said["patterns"] == {"v": 60}
    # 30 patients of each class, a quarter of each (rounded: 8) held out.
    assert said["splits"] == {"train": 44, "test": 16}
