"""What is predicted: classes, or labels of which any may be unknown."""

from typing import Any

import pytest

from polyclinic.errors import StudyError
from polyclinic.study import Study, parse_study
from polyclinic.task import MAX_LABELS, MAX_REGIONS

VECTOR = {"kind": "vector", "features": ["a", "b"]}


def study_of(task: dict[str, Any], **changes: Any) -> Study:
    return parse_study({"name": "tiny", "task": task, "modalities": {"v": VECTOR}} | changes)


def test_a_task_of_two_classes_has_one_logit_and_of_labels_one_each() -> None:
    two = study_of({"label": "y", "classes": ["no", "yes"]}).task
    three = study_of({"label": "y", "classes": ["a", "b", "c"]}).task
    labels = study_of({"labels": {"pneumonia": {}, "view_ap": {"column": "view"}}}).task
    assert (two.logits, three.logits, labels.logits) == (1, 3, 2)
    assert (two.multi_label, labels.multi_label) == (False, True)
    assert (two.columns, labels.columns) == (("y",), ("pneumonia", "view"))
    assert (two.names, labels.names) == (("no", "yes"), ("pneumonia", "view_ap"))


def test_a_label_reads_one_and_zero_and_minus_one_unless_the_study_says_otherwise() -> None:
    label = study_of({"labels": {"effusion": {}}}).task.labels["effusion"]
    assert (label.positive, label.negative, label.unknown) == (("1",), ("0",), ("-1",))


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"label": "y"},
        {"label": "y", "classes": ["a"]},
        {"classes": ["a", "b"]},
        {"label": "y", "classes": ["a", "b"], "labels": {"c": {}}},
        {"label": "y", "labels": {"c": {}}},
        {"labels": {}},
        {"labels": {"Not A Name": {}}},
        {"labels": {"c": {"positive": []}}},
        {"labels": {"c": {"positive": ["0"]}}},
        {"labels": {"c": {"unknown": ["1"]}}},
        {"labels": {"c": {"negative": [" "]}}},
        {"labels": {"c": {"cut": 0.5}}},
        {"labels": {f"c{i}": {} for i in range(MAX_LABELS + 1)}},
    ],
)
def test_a_task_that_is_neither_or_both_or_ambiguous_is_refused(task: dict[str, Any]) -> None:
    with pytest.raises(StudyError):
        study_of(task)


def test_a_label_named_like_a_modality_is_refused_since_scores_are_named_for_both() -> None:
    with pytest.raises(StudyError, match="differ in name"):
        study_of({"labels": {"v": {}}})


def test_the_scores_of_all_labels_in_all_splits_are_fewer_than_a_reply_may_hold() -> None:
    from polyclinic.evaluation.metrics import BY_LABEL, MOST_METRICS

    # Three splits; beside the labels' own scores their means and the number of patients.
    assert 3 * len(BY_LABEL) * (MAX_LABELS + 1) + 3 < MOST_METRICS


def test_the_scores_of_all_regions_in_all_splits_are_no_more_than_a_reply_may_hold() -> None:
    from polyclinic.evaluation.metrics import MODELS, MOST_METRICS, OVERLAPS

    # Dice from each of the 15 subsets of four sequences, HD95 from the whole set.
    each = len(MODELS) * MAX_REGIONS * (15 + 1)
    # Beside them two scores over all regions, of two models, the patients, and some of training.
    assert 3 * (each + len(MODELS) * len(OVERLAPS) + 1) + 10 <= MOST_METRICS
