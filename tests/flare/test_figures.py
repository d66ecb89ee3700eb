"""Names of metrics that leave: labels of the study and modalities held, nothing else."""

import numpy as np
import pytest

from polyclinic.algorithms.overlap import subsets
from polyclinic.errors import ContractViolation
from polyclinic.evaluation.metrics import segmentation_scores
from polyclinic.exchange import Contract
from polyclinic.flare.convert import Reply
from polyclinic.flare.figures import leaving_metrics
from polyclinic.flare.guard import UpdateGuard

HELD, LABELS = ("cnv",), ("pneumonia",)


@pytest.mark.parametrize("name", ["test/auroc/pneumonia", "validation/brier/pneumonia"])
def test_scores_of_the_studys_labels_leave(name: str) -> None:
    assert leaving_metrics({name: 0.5}, HELD, 11, LABELS) == {name: 0.5}
    with pytest.raises(ContractViolation):
        leaving_metrics({name: 0.5}, HELD, 11)


@pytest.mark.parametrize(
    "name",
    [
        "test/auroc/secret_1",
        "test/n/pneumonia",
        "train/loss/pneumonia",
        "proto_norm/pneumonia",
        "test/auroc/cnv+pneumonia",
    ],
)
def test_a_label_lends_its_name_to_its_scores_only(name: str) -> None:
    with pytest.raises(ContractViolation):
        leaving_metrics({name: 0.5}, HELD, 11, LABELS)


SCAN, REGIONS = ("flair", "t1ce", "t2"), ("wt", "et")


@pytest.mark.parametrize(
    "name",
    [
        *("validation/dice", "test/dice/global", "test/hd95", "test/hd95/global"),
        *("test/dice/personal/wt/flair+t1ce", "test/hd95/global/et/flair+t1ce+t2"),
        "test/dice/global/wt/t2",
        "filters/personal",
    ],
)
def test_scores_of_regions_from_sequences_held_leave(name: str) -> None:
    assert leaving_metrics({name: 0.5}, SCAN, 11, (), REGIONS) == {name: 0.5}


@pytest.mark.parametrize(
    "name",
    [
        *("test/dice/personal", "test/dice/wt", "test/dice/wt/flair", "test/dice/patient_17"),
        *("test/dice/other/wt/flair", "test/dice/personal/liver/flair"),
        *("test/dice/personal/wt/t1", "test/dice/personal/wt/flair+t1"),
        *("test/dice/personal/wt/t2+flair", "test/dice/personal/wt/flair+flair"),
        *("test/dice/personal/wt/", "test/dice/personal/wt/flair+", "test/dice/personal/wt/fused"),
        *("test/auroc/wt", "test/n/wt", "filters/personal/wt", "filters/north"),
    ],
)
def test_no_other_region_model_or_set_of_sequences_is_named(name: str) -> None:
    with pytest.raises(ContractViolation):
        leaving_metrics({name: 0.5}, SCAN, 11, (), REGIONS)


@pytest.mark.parametrize("name", ["test/dice", "test/hd95/global", "test/dice/personal/wt/flair"])
def test_a_study_without_regions_has_no_scores_of_them(name: str) -> None:
    with pytest.raises(ContractViolation):
        leaving_metrics({name: 0.5}, SCAN, 11, ("wt",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("test/dice", 1.5), ("test/dice/personal/wt/flair", -0.1), ("filters/personal", 2.0)),
        *(("test/hd95", -1.0), ("test/hd95/personal/wt/flair", 1e5)),
    ],
)
def test_a_share_is_within_one_and_a_distance_within_a_scan(name: str, value: float) -> None:
    with pytest.raises(ContractViolation):
        leaving_metrics({name: value}, SCAN, 11, (), REGIONS)


def test_everything_that_is_scored_of_a_segmentation_leaves_and_passes_the_servers_guard() -> None:
    held, regions = ("flair", "t1", "t1ce", "t2"), ("wt", "tc", "et")
    found = {
        f"{kind}/{model}/{region}/{subset}": np.full(20, 0.5, np.float32)
        for kind in ("dice", "hd95")
        for model in ("personal", "global")
        for region in regions
        for subset in subsets(held)
    }
    scored = segmentation_scores(found, least=11)
    told = {f"{s}/{k}": v for s in ("train", "validation", "test") for k, v in scored.items()}
    assert len(told) == 3 * (2 * 3 * (15 + 1) + 4 + 1)
    told |= {"train/loss": 0.5, "filters/personal": 0.25}
    assert leaving_metrics(told, held, 11, (), regions) == told
    guard = UpdateGuard(Contract({}))
    assert guard.check_metrics(Reply("", metrics=told)) == told


def test_the_longest_names_that_a_study_may_have_pass_the_servers_guard() -> None:
    sequences = [f"{letter}{'x' * 31}" for letter in "abcdef"]
    name = f"validation/dice/personal/{'r' * 32}/{'+'.join(sequences)}"
    assert UpdateGuard(Contract({})).check_metrics(Reply("", metrics={name: 0.5})) == {name: 0.5}
