from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.data.manifest import Patient
from polyclinic.data.split import assign, held_out, strata_of
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


def films(counts: list[int], label=lambda i, j: i % 2) -> list[Patient]:
    """Patients with so many films each."""
    return [
        Patient(f"p{i:03d}", label(i, j), record=f"f{i:03d}-{j}")
        for i, n in enumerate(counts)
        for j in range(n)
    ]


def test_b15_all_films_of_a_patient_are_in_one_split() -> None:
    patients = films([1 + i % 7 for i in range(60)])
    drawn = assign(patients, Split(test=0.3, validation=0.2), 0, "s")
    of_patient: dict[str, set[str]] = {}
    for p, split in zip(patients, drawn, strict=True):
        of_patient.setdefault(p.pseudonym, set()).add(split)
    assert {len(s) for s in of_patient.values()} == {1}
    # Patients are counted, not films: 30 of each class.
    counts = Counter(next(iter(s)) for s in of_patient.values())
    assert counts == {"test": 18, "validation": 8, "train": 34}


def test_patients_with_one_film_each_are_split_as_patients_are() -> None:
    rule = Split(test=0.2, validation=0.1)
    single = [Patient(p.pseudonym, p.label, record=f"f{p.pseudonym}") for p in COHORT]
    assert assign(single, rule, 3, "s") == assign(COHORT, rule, 3, "s")


def test_more_films_of_a_patient_do_not_change_the_split() -> None:
    once = films([1] * 40)
    more = films([1 + i % 3 for i in range(40)], label=lambda i, j: i % 2)
    assert by_patient(once, Split(), 0, "s") == by_patient(more, Split(), 0, "s")


def test_a_patient_with_films_of_both_classes_counts_as_the_last_class() -> None:
    strata = strata_of(films([2, 2], label=lambda i, j: int(i == 0 and j == 1)), Split())
    assert strata == {"p000": (1,), "p001": (0,)}


def test_labels_are_divided_by_their_combination_and_rare_ones_together() -> None:
    # 40 of (0, 0), 40 of (1, -1), and four combinations of 2.
    rare = [(1, 0), (1, 1), (0, 1), (0, -1)] * 2
    answers = [*[(0, 0)] * 40, *[(1, -1)] * 40, *rare]
    patients = [Patient(f"p{i:03d}", a) for i, a in enumerate(answers)]
    drawn = assign(patients, Split(test=0.25), 0, "s")
    tested = Counter(a for a, s in zip(answers, drawn, strict=True) if s == "test")
    assert tested[(0, 0)] == tested[(1, -1)] == 10
    assert sum(tested[a] for a in set(rare)) == 2  # a quarter of the eight, not one of each two


def test_of_several_films_yes_counts_before_no_before_unknown() -> None:
    patients = films([3], label=lambda i, j: [(0, -1), (-1, -1), (-1, 1)][j])
    assert strata_of(patients, Split(test=0.5)) == {"p000": ()}  # one patient is rare
    many = [Patient(f"p{i}", p.label, record=f"{i}-{p.record}") for i in range(2) for p in patients]
    assert set(strata_of(many, Split(test=0.5)).values()) == {(0, 1)}
