from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.data.manifest import Patient
from polyclinic.data.split import assign, held_out
from polyclinic.study import Split

COHORT = [Patient(f"p{i:03d}", int(i % 5 == 0)) for i in range(100)]


def by_patient(patients, *args):
    return dict(zip((p.pseudonym for p in patients), assign(patients, *args), strict=True))


def test_a_split_does_not_depend_on_the_order_of_patients() -> None:
    shuffled = Random(1).sample(COHORT, len(COHORT))
    rule = Split(test=0.2, validation=0.1)
    assert by_patient(shuffled, rule, 3, "s") == by_patient(COHORT, rule, 3, "s")


def test_a_split_depends_on_seed_and_site() -> None:
    rule = Split()
    assert by_patient(COHORT, rule, 0, "s") != by_patient(COHORT, rule, 1, "s")
    assert by_patient(COHORT, rule, 0, "s") != by_patient(COHORT, rule, 0, "t")


def test_every_class_is_divided_in_the_same_proportion() -> None:
    drawn = assign(COHORT, Split(test=0.2, validation=0.25), 0, "s")
    counts = Counter((p.label, s) for p, s in zip(COHORT, drawn, strict=True))
    # 80 and 20 patients: a fifth to test, a quarter of the rest to validation.
    assert counts == {
        (0, "test"): 16,
        (0, "validation"): 16,
        (0, "train"): 48,
        (1, "test"): 4,
        (1, "validation"): 4,
        (1, "train"): 12,
    }


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(0, 0.2, 0), (1, 0.5, 0), (2, 0.2, 1), (2, 0.9, 1), (9, 0, 0)],
)
def test_a_class_is_never_held_out_whole_nor_left_out(count, fraction, expected) -> None:
    assert held_out(count, fraction) == expected


def test_the_manifest_decides_when_the_study_says_so() -> None:
    patients = [Patient("a", 0, "test"), Patient("b", 1, "train"), Patient("c", 1, "validation")]
    assert assign(patients, Split(source="manifest"), 0, "s") == ["test", "train", "validation"]


def test_without_stratification_only_the_total_is_kept() -> None:
    drawn = assign(COHORT, Split(test=0.3, stratify=False), 0, "s")
    assert Counter(drawn) == {"test": 30, "train": 70}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 2), max_size=40),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.integers(0, 10**6),
)
def test_every_class_of_a_patient_keeps_training_patients(labels, test, validation, seed) -> None:
    patients = [Patient(f"p{i}", label) for i, label in enumerate(labels)]
    drawn = assign(patients, Split(test=test, validation=validation), seed, "s")
    trained = {p.label for p, s in zip(patients, drawn, strict=True) if s == "train"}
    assert trained == set(labels)
