"""Cells that mean yes, no, or that nobody knows; and how many patients stand behind them."""

import pytest
import torch

from polyclinic.data.labels import LabelCells, label_tensor, most_rows, people_of
from polyclinic.task import Task

CLASSES = Task(label="y", classes=("no", "yes"))
LABELS = Task.model_validate(
    {
        "labels": {
            "pneumonia": {"column": "finding", "positive": ["P", "2"], "negative": ["none"]},
            "view_ap": {"unknown": ["-1", "lateral"]},
        }
    }
)


@pytest.mark.parametrize(
    ("cell", "answer", "clear"),
    [
        ("P", 1, True),
        ("2.0", 1, True),
        ("none", -1, True),
        ("", -1, True),
        ("NaN", -1, True),
        ("n/a", -1, True),
        ("COVID", -1, False),
        ("1", -1, False),
    ],
)
def test_a_cell_is_yes_no_unknown_or_strange(cell: str, answer: int, clear: bool) -> None:
    blank = Task.model_validate({"labels": {"l": {"column": "c", "positive": ["P", "2"]}}})
    found, fine = LabelCells.of(blank).read({"c": cell})
    assert fine is clear
    assert found == (None if answer == -1 else (answer,))


def test_what_the_study_names_wins_over_words_for_blank() -> None:
    assert LabelCells.of(LABELS).read({"finding": "none", "view_ap": ""}) == ((0, -1), True)


def test_one_strange_cell_leaves_the_labels_that_are_known() -> None:
    cells = LabelCells.of(LABELS)
    assert cells.read({"finding": "COVID", "view_ap": "1.0"}) == ((-1, 1), False)
    assert cells.read({"finding": "P", "view_ap": "lateral"}) == ((1, -1), True)
    assert cells.read({"finding": "", "view_ap": "-1"}) == (None, True)


def test_a_class_is_known_or_the_row_says_nothing() -> None:
    cells = LabelCells.of(CLASSES)
    assert cells.read({"y": "yes"}) == (1, True)
    assert cells.read({"y": ""}) == (None, False)


def test_labels_are_numbers_with_nan_where_unknown_and_classes_are_indices() -> None:
    found = label_tensor([(1, -1), (0, 1)], LABELS)
    assert found.dtype == torch.float32
    assert torch.equal(found.isnan(), torch.tensor([[False, True], [False, False]]))
    assert found.nan_to_num(9.0).tolist() == [[1.0, 9.0], [0.0, 1.0]]
    assert torch.equal(label_tensor([1, 0], CLASSES), torch.tensor([1, 0]))
    assert label_tensor([], LABELS).shape == (0, 2)


def test_people_are_patients_and_one_with_films_of_both_classes_is_in_both() -> None:
    owners = torch.tensor([0, 0, 0, 1, 1])
    assert people_of(torch.tensor([1, 1, 0, 1, 1]), owners, CLASSES).tolist() == [1, 2]
    assert people_of(torch.tensor([], dtype=torch.int64), owners[:0], CLASSES).tolist() == [0, 0]


def test_people_by_side_of_each_label_leave_out_the_unknown() -> None:
    owners = torch.tensor([0, 0, 1, 2])
    labels = label_tensor([(1, -1), (1, 0), (0, -1), (-1, 0)], LABELS)
    # pneumonia: no is patient 1, yes is patient 0; view_ap: no is patients 0 and 2, yes nobody.
    assert people_of(labels, owners, LABELS).tolist() == [[1, 1], [2, 0]]


def test_where_every_row_is_a_patient_people_are_rows() -> None:
    labels = torch.arange(30) % 2
    assert torch.equal(people_of(labels, torch.arange(30), CLASSES), torch.bincount(labels))


def test_the_most_rows_of_a_patient() -> None:
    assert most_rows(torch.tensor([0, 2, 2, 2, 1])) == 3
    assert most_rows(torch.tensor([], dtype=torch.int64)) == 1
