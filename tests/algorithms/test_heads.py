"""Which heads are trained, and on what they are shown."""

import pytest
import torch

from hospital import a_hospital, a_study
from polyclinic.algorithms.heads import HeadTraining, heads_loss, training_output
from polyclinic.models.multimodal import HeadSettings, Output, SiteModel
from polyclinic.objectives.task import task_loss

STUDY = a_study()


def test_a_modalitys_head_learns_only_from_patients_who_have_it() -> None:
    present = {"a": torch.tensor([True, False])}
    output = Output({}, present, torch.zeros(2, 1), {"a": torch.tensor([[3.0], [3.0]])})
    labels = torch.tensor([1, 1])
    found = heads_loss(output, labels, task_loss, HeadTraining(unimodal_weight=2.0))

    half = torch.log(torch.tensor(2.0))  # BCE at logit 0
    three = torch.log1p(torch.exp(torch.tensor(-3.0)))  # BCE at logit 3 with label 1
    torch.testing.assert_close(found, torch.stack([half + 2 * three, half]))


def test_the_fused_head_may_be_left_out_of_the_loss() -> None:
    output = Output({}, {"a": torch.ones(1).bool()}, torch.zeros(1, 1), {"a": torch.zeros(1, 1)})
    settings = HeadTraining(fused_weight=0.0)
    found = heads_loss(output, torch.tensor([1]), task_loss, settings)
    torch.testing.assert_close(found, torch.log(torch.tensor([2.0])))


def shown_bits(training: bool) -> torch.Tensor:
    """Presence bits that a linear fused head with unit bit weights adds up; (B, 2)."""
    model = SiteModel(STUDY, ("a", "b"), HeadSettings(slots=("a", "b"), hidden=0))
    layer = model.head["fused"][0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[0, -2], layer.weight[0, -1] = 1.0, 2.0
    model.train(training)
    torch.manual_seed(0)
    total = training_output(model, a_hospital(study=STUDY, n=200).splits["train"], 0.5).fused
    return total[:, 0].detach()


def test_modality_dropout_hides_some_but_never_all_and_only_in_training() -> None:
    sums = shown_bits(training=True)
    # 1: only a is shown; 2: only b; 3: both. Both hidden (1/4) shows both again.
    shares = [(sums == s).float().mean().item() for s in (0.0, 1.0, 2.0, 3.0)]
    assert shares[0] == 0.0
    assert shares[1:] == pytest.approx([0.25, 0.25, 0.5], abs=0.12)
    assert (shown_bits(training=False) == 3.0).all()
