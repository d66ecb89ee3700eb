"""Joining others to an anchor; letters and numbers are those of algorithms.cxr_metadata."""

from dataclasses import replace

import pytest
import torch

from hospital import a_hospital, a_study
from polyclinic import models
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.models.joint import (
    JOININGS,
    JointModel,
    JointSettings,
    LateModel,
    mean_probability_logits,
)

STUDY = a_study({"cxr": 6, "labs": 3, "metadata": 4})
EVERYTHING = ("cxr", "labs", "metadata")
TAU = {"missing": "token", "presence": True, "hidden": [8], "dropout": 0.0}
TOKENS = a_study({"cxr": 6, "labs": 3, "metadata": 4}, encoder=TAU)


def a_joint(
    joining: str = "gated", held: tuple[str, ...] = EVERYTHING, **more: object
) -> JointModel:
    torch.manual_seed(0)
    settings = JointSettings(anchor="cxr", joining=joining, **more)
    model = JointModel(TOKENS, held, settings)
    with torch.no_grad():  # tokens start at zero, where a test would see little
        for name, value in model.named_parameters():
            if name.endswith(".value"):
                value.normal_()
    return model.eval()


def a_batch(absent: float = 0.4) -> Batch:
    return a_hospital("north", EVERYTHING, study=TOKENS, absent=absent, n=40).splits["train"]


def without(batch: Batch, *names: str) -> Batch:
    """The batch in which nobody has these modalities, though their numbers stand there."""
    nobody = {m: torch.zeros_like(batch.present[m]) for m in names}
    return replace(batch, present=batch.present | nobody)


def feature(model: JointModel, batch: Batch) -> torch.Tensor:
    return model.feature(*model.embed(batch), batch.labels)


def test_names_are_the_contract() -> None:
    found = {".".join(n.split(".")[:3]) for n in a_joint().state_dict() if n.startswith("fuse")}
    assert found == {"fuse.gate.labs", "fuse.gate.metadata", "fuse.missing.cxr"}
    roots = {".".join(n.split(".")[:2]) for n in a_joint().state_dict() if n[:4] != "fuse"}
    assert roots == {f"{k}.{m}" for k in ("enc", "head") for m in EVERYTHING} | {"head.fused"}


@pytest.mark.parametrize("joining", ["gated", "mean"])
def test_c1_without_metadata_the_fused_feature_is_the_films_whatever_stands_there(
    joining: str,
) -> None:
    model, batch = a_joint(joining), a_batch(absent=0.0)
    z_film = model.embed(batch)[0]["cxr"]
    for garbage in (0.0, 1e9, float("nan")):
        x = {m: torch.full_like(batch.inputs[m], garbage) for m in ("labs", "metadata")}
        alone = without(replace(batch, inputs=batch.inputs | x), "labs", "metadata")
        assert torch.equal(feature(model, alone), z_film)


def test_gated_adds_each_modality_through_its_gate() -> None:
    model, batch = a_joint(), a_batch(absent=0.0)
    h, _ = model.embed(batch)
    expected = h["cxr"]
    for m in ("labs", "metadata"):
        gate = model.fuse.gate[m]
        opened = torch.sigmoid(torch.cat([h["cxr"], h[m]], 1) @ gate.weight.T + gate.bias)
        expected = expected + opened * h[m]
    torch.testing.assert_close(feature(model, batch), expected)


def test_concat_puts_a_token_and_a_bit_into_an_empty_slot() -> None:
    model, batch = a_joint("concat"), without(a_batch(absent=0.0), "metadata")
    h, d = model.embed(batch)[0], TOKENS.embedding
    found = feature(model, batch)

    ones, zeros = torch.ones(batch.size, 1), torch.zeros(batch.size, 1)
    token = model.fuse.missing["metadata"].value.expand(batch.size, d)
    torch.testing.assert_close(found, torch.cat([h["cxr"], h["labs"], ones, token, zeros], dim=1))


def test_mean_is_over_the_modalities_a_patient_has() -> None:
    model, batch = a_joint("mean"), without(a_batch(absent=0.0), "labs")
    h = model.embed(batch)[0]
    torch.testing.assert_close(feature(model, batch), (h["cxr"] + h["metadata"]) / 2)


@pytest.mark.parametrize("joining", JOININGS)
@pytest.mark.parametrize("garbage", [1e9, float("nan"), float("inf")])
def test_c2_what_stands_where_a_bit_is_zero_changes_nothing(joining: str, garbage: float) -> None:
    model, batch = a_joint(joining), a_batch()
    batch.fields["metadata"][:, 1] = False
    expected = model(batch)
    dirty = {
        m: torch.where(batch.fields[m] & batch.present[m][:, None], x, garbage)
        for m, x in batch.inputs.items()
    }
    found = model(replace(batch, inputs=dirty))

    assert torch.isfinite(expected.fused).all()
    assert torch.equal(found.fused, expected.fused)


@pytest.mark.parametrize("joining", JOININGS)
def test_b16_a_patient_with_metadata_and_no_film_trains_all_but_the_films_encoder(
    joining: str,
) -> None:
    model, batch = a_joint(joining).train(), without(a_batch(absent=0.0), "cxr")
    output = model(batch)
    output.fused.square().mean().backward()

    assert torch.isfinite(output.fused).all()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert not any(n.startswith("enc.cxr.") for n in moved)
    assert any(n.startswith("enc.metadata.") for n in moved)
    assert ("fuse.missing.cxr.value" in moved) == (joining != "mean")


@pytest.mark.parametrize("joining", JOININGS)
def test_a_site_without_films_and_a_patient_without_anything_get_finite_answers(
    joining: str,
) -> None:
    held = ("labs", "metadata")
    model, batch = a_joint(joining, held), a_batch().restricted(held)
    assert torch.isfinite(model(batch).fused).all()
    assert torch.isfinite(model(without(batch, *held)).fused).all()
    assert torch.isfinite(a_joint(joining)(without(a_batch(), *EVERYTHING)).fused).all()


@pytest.mark.parametrize("joining", JOININGS)
def test_c3_the_fused_loss_has_no_gradient_at_the_films_branch_when_isolated(joining: str) -> None:
    batch = a_batch()
    for isolated in (True, False):
        model = a_joint(joining, isolated=isolated).train()
        model(batch).fused.square().mean().backward()
        touched = [
            n
            for n, p in model.named_parameters()
            if n.startswith(("enc.cxr.", "head.cxr.")) and p.grad is not None and p.grad.any()
        ]
        assert bool(touched) == (not isolated)


def test_a_frozen_film_branch_stays_in_eval_mode_and_keeps_no_graph() -> None:
    model = a_joint()
    model.frozen = True
    model.train()
    assert not model.enc["cxr"].training
    assert model.enc["metadata"].training
    h, _ = model.embed(a_batch())
    assert not h["cxr"].requires_grad
    assert h["metadata"].requires_grad


def test_c10_every_way_of_fusing_builds_its_encoders_from_one_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[str] = []
    build = models.build

    def counting(name: str, modality: object, embedding: int) -> torch.nn.Module:
        built.append(name)
        return build(name, modality, embedding)  # type: ignore[arg-type]

    monkeypatch.setattr(models, "build", counting)
    a_joint()
    LateModel(STUDY, EVERYTHING)
    assert built == [*EVERYTHING, *EVERYTHING]


def test_late_is_the_mean_of_the_probabilities_of_the_heads_a_patient_has() -> None:
    torch.manual_seed(0)
    model, batch = LateModel(TOKENS, EVERYTHING).eval(), a_batch()
    output = model(batch)
    total, count = torch.zeros(batch.size), torch.zeros(batch.size)
    for m in EVERYTHING:
        total += torch.sigmoid(output.unimodal[m][:, 0]) * batch.present[m]
        count += batch.present[m]

    torch.testing.assert_close(torch.sigmoid(output.fused[:, 0]), total / count)


def test_late_of_nothing_is_even_odds_and_has_a_finite_gradient() -> None:
    logits = torch.tensor([[[2.0], [3.0]], [[-1.0], [5.0]]], requires_grad=True)  # (M, B, L)
    there = torch.tensor([[False, True], [False, False]])
    found = mean_probability_logits(logits, there, exclusive=False)
    found.sum().backward()

    torch.testing.assert_close(found, torch.tensor([[0.0], [3.0]]))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_late_with_one_softmax_averages_its_probabilities() -> None:
    logits, there = torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool)
    found = mean_probability_logits(logits, there, exclusive=True)
    torch.testing.assert_close(torch.softmax(found, 1), torch.softmax(logits, 2).mean(0))


def test_a_modality_may_not_be_called_fused() -> None:
    with pytest.raises(StudyError, match="fused"):
        JointModel(a_study({"fused": 2}), ("fused",), JointSettings(anchor="fused"))


def test_a_gate_starts_almost_shut_so_that_untrained_metadata_hardly_disturb_the_film() -> None:
    gate = a_joint().fuse.gate["metadata"]
    assert (gate.bias == -2.0).all()
    assert torch.sigmoid(gate.bias).max() < 0.13
