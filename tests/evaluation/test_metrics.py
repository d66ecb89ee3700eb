"""Scores, against counting by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from polyclinic.evaluation.metrics import (
    METRIC_NAME,
    auprc,
    auroc,
    balanced_accuracy,
    bootstrap_interval,
    brier,
    scores,
    scores_of,
    segmentation_scores,
)
from polyclinic.task import Task


def test_auroc_counts_pairs_and_ties_one_half() -> None:
    label, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.5, 0.5, 0.9])
    # pairs (negative, positive): .1<.5, .1<.9, .5=.5 (1/2), .5<.9 -> 3.5 of 4
    assert auroc(label, score) == 3.5 / 4


def test_auroc_is_undefined_with_one_class() -> None:
    assert auroc(np.ones(3, int), np.arange(3.0)) is None
    assert auroc(np.zeros(3, int), np.arange(3.0)) is None
    assert "auroc" not in scores(np.full((3, 2), 0.5), np.ones(3, int))


def test_a_model_that_says_nan_gets_no_credit() -> None:
    assert auroc(np.array([0, 1]), np.array([0.0, np.nan])) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_scores_agree_with_scikit_learn_ties_included(seed: int) -> None:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 2, 60)
    score = np.round(draw.random(60), 1)
    assert auroc(label, score) == pytest.approx(sklearn.roc_auc_score(label, score))
    assert auprc(label, score) == pytest.approx(sklearn.average_precision_score(label, score))
    chosen = (score > 0.5).astype(int)
    expected = sklearn.balanced_accuracy_score(label, chosen)
    assert balanced_accuracy(label, chosen, 2) == pytest.approx(expected)
    expected = sklearn.brier_score_loss(label, score)
    assert brier(label, np.stack([1 - score, score], 1)) == pytest.approx(expected)


def test_three_classes_are_scored_one_against_the_rest() -> None:
    draw = np.random.default_rng(0)
    p, label = draw.dirichlet(np.ones(3), 50), draw.integers(0, 3, 50)
    expected = np.mean([auroc((label == c).astype(int), p[:, c]) for c in range(3)])
    assert scores(p, label)["auroc"] == pytest.approx(expected)


def test_nobody_has_no_scores() -> None:
    assert scores(np.zeros((0, 2)), np.zeros(0, int)) == {}


def test_the_interval_of_equal_values_is_that_value() -> None:
    assert bootstrap_interval([0.7] * 5) == (0.7, 0.7)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        low, high = bootstrap_interval(draw.normal(size=40).tolist(), draws=400, seed=i)
        hits += low <= 0.0 <= high
    # 95 % of 200 is 190; a bootstrap of 40 values covers a little less.
    assert 178 <= hits <= 198


@pytest.mark.parametrize(
    "name", ["test/auroc", "validation/n", "proto_norm/cnv", "seconds/train", "quarantined/row_nan"]
)
def test_listed_metrics_may_leave(name: str) -> None:
    assert METRIC_NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["test/auroc/P-0041 ", "weights/enc", "patient/17", "proto_norm/", "TEST/auroc", ""]
)
def test_other_metrics_may_not(name: str) -> None:
    assert not METRIC_NAME.fullmatch(name)


def test_each_label_is_scored_where_it_is_known_and_the_mean_is_over_the_defined_ones() -> None:
    nan = np.nan
    label = np.array([[1, nan, 0], [0, nan, 0], [1, nan, nan], [nan, nan, 0]])
    p = np.array([[0.9, 0.5, 0.2], [0.4, 0.5, 0.4], [0.3, 0.5, 0.9], [0.8, 0.5, 0.0]])
    found = scores(p, label, ["a", "b", "c"])
    # a: yes .9 and .3, no .4 -> 1 of 2 pairs; c has no yes, so no AUROC, but a Brier score.
    assert found["auroc/a"] == 0.5
    assert found["auroc"] == 0.5
    assert found["brier/a"] == pytest.approx((0.1**2 + 0.4**2 + 0.7**2) / 3)
    assert found["brier/c"] == pytest.approx((0.2**2 + 0.4**2) / 3)
    assert found["brier"] == pytest.approx((found["brier/a"] + found["brier/c"]) / 2)
    assert found["auprc"] == found["auprc/a"]
    assert not {"auroc/b", "brier/b", "auroc/c"} & set(found)
    assert found["n"] == 4
    assert all(METRIC_NAME.fullmatch(f"test/{name}") for name in found)


def test_labels_that_all_are_known_score_like_single_tasks() -> None:
    draw = np.random.default_rng(0)
    p, label = draw.random((50, 2)), draw.integers(0, 2, (50, 2)).astype(float)
    found = scores(p, label, ["a", "b"])
    for i, name in enumerate("ab"):
        y = label[:, i].astype(int)
        assert found[f"auroc/{name}"] == pytest.approx(sklearn.roc_auc_score(y, p[:, i]))
        assert found[f"auprc/{name}"] == pytest.approx(sklearn.average_precision_score(y, p[:, i]))
        assert found[f"brier/{name}"] == pytest.approx(sklearn.brier_score_loss(y, p[:, i]))
    assert found["auroc"] == pytest.approx((found["auroc/a"] + found["auroc/b"]) / 2)


def test_labels_of_which_nothing_is_known_have_no_scores() -> None:
    assert scores(np.full((3, 1), 0.5), np.full((3, 1), np.nan), ["a"]) == {}
    assert scores(np.zeros((0, 2)), np.zeros((0, 2)), ["a", "b"]) == {}


MASKED = Task.model_validate(
    {
        "mask": {
            "classes": ["background", "edema", "enhancing"],
            "regions": {"wt": ["edema", "enhancing"], "et": ["enhancing"]},
        }
    }
)
FULL = "flair+t1ce"


def found_by(model: str, subset: str, wt: list[float], et: list[float]) -> dict[str, np.ndarray]:
    """Dice of both regions as a client half gives it, and HD95 ten times as large."""
    dice = {
        f"dice/{model}/{r}/{subset}": np.array(v, np.float32) for r, v in (("wt", wt), ("et", et))
    }
    return dice | {k.replace("dice", "hd95"): v * 10 for k, v in dice.items()}


def test_each_region_is_scored_over_the_patients_for_whom_it_is_defined() -> None:
    told = segmentation_scores(found_by("personal", FULL, [0.5, 1.0], [np.nan, 0.25]))
    assert told[f"dice/personal/wt/{FULL}"] == 0.75
    assert told[f"dice/personal/et/{FULL}"] == 0.25
    assert told[f"hd95/personal/et/{FULL}"] == 2.5
    assert told["n"] == 2


def test_a_region_that_is_defined_for_nobody_is_left_out() -> None:
    told = segmentation_scores(found_by("personal", FULL, [0.5, 1.0], [np.nan, np.nan]))
    assert f"dice/personal/et/{FULL}" not in told
    assert told["dice"] == 0.75


def test_the_headline_is_the_personal_model_on_all_sequences_that_the_site_holds() -> None:
    found = found_by("personal", FULL, [0.8], [0.6]) | found_by("global", FULL, [0.5], [0.2])
    found |= found_by("personal", "flair", [0.1], [0.1]) | found_by("global", "t1ce", [0.1], [0.1])
    told = segmentation_scores(found)
    assert told["dice"] == pytest.approx((0.8 + 0.6) / 2)
    assert told["dice/global"] == pytest.approx((0.5 + 0.2) / 2)
    assert told["hd95"] == pytest.approx((8 + 6) / 2)
    assert told["hd95/global"] == pytest.approx((5 + 2) / 2)


def test_distances_are_told_with_all_sequences_only() -> None:
    found = found_by("personal", FULL, [0.8], [0.6]) | found_by("personal", "t1ce", [0.3], [0.4])
    told = segmentation_scores(found)
    assert told["dice/personal/wt/t1ce"] == pytest.approx(0.3)
    assert {k for k in told if k.startswith("hd95/") and "/wt/" in k} == {
        f"hd95/personal/wt/{FULL}"
    }


def test_without_a_personal_model_the_headline_is_of_the_global_one() -> None:
    told = segmentation_scores(found_by("global", FULL, [0.5], [0.2]))
    assert told["dice"] == told["dice/global"] == pytest.approx(0.35)


def test_a_mean_over_fewer_patients_than_asked_for_is_not_told() -> None:
    found = found_by("personal", FULL, [0.5, 0.7, 0.9], [0.1, 0.2, np.nan])
    told = segmentation_scores(found, least=3)
    assert f"dice/personal/et/{FULL}" not in told
    assert told["dice"] == told[f"dice/personal/wt/{FULL}"] == pytest.approx(0.7)


def test_the_means_of_two_subsets_never_differ_by_fewer_patients_than_asked_for() -> None:
    # Three patients have flair alone and one has t1ce alone: 4 · 0.625 - 3 · 0.8 is the one's Dice.
    found = {
        "dice/personal/wt/flair": np.array([0.8, 0.8, 0.8, np.nan]),
        "dice/personal/wt/t1ce": np.array([np.nan, np.nan, np.nan, 0.1]),
        f"dice/personal/wt/{FULL}": np.array([0.8, 0.8, 0.8, 0.1]),
    }
    told = segmentation_scores(found, least=3)
    assert {k for k in told if k.startswith("dice/")} == {f"dice/personal/wt/{FULL}"}
    more = {k: np.append(v, v[[-1, -1]]) for k, v in found.items()}
    assert {k for k in segmentation_scores(more, least=3) if k.startswith("dice/")} == found.keys()


def test_nobody_has_no_regions() -> None:
    assert segmentation_scores({}) == {}
    assert segmentation_scores(found_by("personal", FULL, [], [])) == {}


def test_what_is_scored_depends_on_the_kind_of_task() -> None:
    found = found_by("personal", FULL, [0.8], [0.6])
    assert scores_of(found, MASKED) == segmentation_scores(found)
    classes = Task(label="y", classes=("no", "yes"))
    p, label = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])
    assert scores_of({"probability": p, "label": label}, classes) == scores(p, label)
    labels = Task.model_validate({"labels": {"a": {}}})
    known = {"probability": p[:, :1], "label": label[:, None].astype(float)}
    assert scores_of(known, labels) == scores(**known, names=["a"])


def test_every_score_of_a_segmentation_is_a_listed_metric() -> None:
    found = found_by("personal", FULL, [0.8], [0.6]) | found_by("global", "t1ce", [0.5], [0.2])
    assert all(METRIC_NAME.fullmatch(f"test/{name}") for name in segmentation_scores(found))


def test_nothing_is_told_of_a_region_that_fewer_patients_than_a_cell_have() -> None:
    # Ten of eleven have no core and score 1: the mean would show the eleventh.
    found = {
        "dice/personal/wt/flair": np.full(11, 0.5),
        "dice/personal/tc/flair": np.array([1.0] * 10 + [0.2]),
        "there/wt": np.ones(11),
        "there/tc": np.array([0.0] * 10 + [1.0]),
    }
    assert set(segmentation_scores(found, least=11)) == {"dice/personal/wt/flair", "dice", "n"}
    assert "dice/personal/tc/flair" in segmentation_scores(found, least=1)
