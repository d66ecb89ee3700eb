"""Names of metrics that leave: labels of the study and modalities held, nothing else."""

import pytest

from polyclinic.errors import ContractViolation
from polyclinic.flare.figures import leaving_metrics

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
