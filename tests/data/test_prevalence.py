"""Patients by class, or by side of each label, without small counts."""

import torch

from polyclinic.data.prevalence import lacking, prevalence, worded
from polyclinic.data.selection import Selection
from polyclinic.data.vector import VectorColumn
from polyclinic.study import parse_study

NAN = torch.nan


def selection(labels: torch.Tensor, task: dict, owners=None, minimum_cell: int = 2) -> Selection:
    study = parse_study(
        {"name": "toy", "task": task, "modalities": {"v": {"kind": "vector", "features": ["a"]}}}
    )
    n = len(labels)
    column = VectorColumn(torch.ones(n, 1), torch.ones(n, 1, dtype=torch.bool))
    owners = torch.arange(n) if owners is None else torch.tensor(owners)
    return Selection("s", study, {"v": column}, labels, ["train"] * n, minimum_cell, owners)


TWO = {"labels": {"p": {}, "q": {}}}
LABELS = torch.tensor([[1, NAN], [1, NAN], [1, NAN], [0, NAN], [0, NAN], [NAN, NAN]])


def test_each_label_is_told_by_its_sides() -> None:
    found = prevalence(selection(LABELS, TWO))
    # Of p one patient is unknown, which is small: so is the smaller side, or it could be inferred.
    assert found == {
        "train": {
            "p": {"no": "hidden", "yes": 3, "unknown": "<2"},
            "q": {"no": "<2", "yes": "<2", "unknown": 6},
        }
    }
    assert worded(found["train"]).startswith("p: no hidden, yes 3, unknown <2; q: no <2")


def test_films_of_one_patient_are_one() -> None:
    chosen = selection(
        torch.tensor([1, 1, 1, 0, 0]), {"label": "y", "classes": ["a", "b"]}, [0] * 5
    )
    assert prevalence(chosen) == {"train": {"a": "<2", "b": "<2"}}


def test_unknown_is_a_patient_of_whom_no_film_has_the_label() -> None:
    films = torch.tensor([[1, 1], [NAN, 1], [1, 1], [0, 1], [NAN, 1], [NAN, 1]])
    owners = [0, 0, 0, 1, 2, 2]
    found = prevalence(selection(films, TWO, owners, minimum_cell=1))
    assert found["train"]["p"] == {"no": 1, "yes": 1, "unknown": 1}
    assert found["train"]["q"] == {"no": "<1", "yes": "hidden"}


def test_what_is_lacking_is_a_class_a_side_or_a_label() -> None:
    assert lacking(selection(LABELS, TWO)) == ["q (known of nobody)"]
    assert lacking(selection(LABELS[:3], TWO)) == ["p no", "q (known of nobody)"]
    one = selection(torch.tensor([0, 0]), {"label": "y", "classes": ["a", "b"]})
    assert lacking(one) == ["b"]
