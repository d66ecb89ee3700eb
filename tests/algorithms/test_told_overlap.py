"""Scores of a segmentation that a site tells: never of fewer patients than its smallest cell."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polyclinic.algorithms.site import told_scores, validation_scores
from polyclinic.exchange import Tensors
from polyclinic.study import Task

TASK = Task.model_validate(
    {"mask": {"classes": ["background", "edema"], "regions": {"wt": ["edema"]}}}
)


def patients(rows: int, people: int, minimum_cell: int = 11) -> SimpleNamespace:
    """A split of so many scans of so many people."""
    return SimpleNamespace(
        study=SimpleNamespace(task=TASK),
        minimum_cell=minimum_cell,
        people=lambda split: torch.tensor([people]),
        size=lambda split: rows,
        distinct=lambda split: people,
    )


def found(rows: int, undefined: int) -> Tensors:
    """The same Dice of every scan, a distance for all but some."""
    distance = np.full(rows, 3.0, np.float32)
    distance[:undefined] = np.nan
    dice = np.full(rows, 0.5, np.float32)
    return {"dice/personal/wt/flair": dice, "hd95/personal/wt/flair": distance}


def test_a_split_of_a_cell_is_scored_and_a_smaller_one_is_not() -> None:
    assert told_scores(found(11, 0), patients(11, 11), "test")["dice"] == 0.5
    assert told_scores(found(10, 0), patients(10, 10), "test") == {}


@pytest.mark.parametrize(("undefined", "told"), [(0, True), (1, True), (2, False)])
def test_a_region_is_not_scored_where_it_is_defined_for_fewer_than_a_cell(
    undefined: int, told: bool
) -> None:
    scores = told_scores(found(12, undefined), patients(12, 12), "test")
    assert ("hd95" in scores) is told
    assert scores["dice"] == 0.5


@pytest.mark.parametrize(("undefined", "told"), [(0, True), (1, True), (2, False)])
def test_a_second_scan_of_a_patient_makes_no_cell_larger(undefined: int, told: bool) -> None:
    # 20 scans of 12 people: any 19 of them are of 11 people or more, any 18 may be of 10.
    scores = told_scores(found(20, undefined), patients(20, 12), "test")
    assert ("hd95/personal/wt/flair" in scores) is told


def test_scores_of_validation_patients_have_its_name() -> None:
    assert validation_scores(found(11, 0), patients(11, 11))["validation/dice"] == 0.5
