"""The model of one site."""

from dataclasses import replace

import pytest
import torch

from hospital import a_hospital, a_study
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.models.multimodal import HeadSettings, SiteModel, encoded

STUDY = a_study()


def a_model(**settings: object) -> SiteModel:
    torch.manual_seed(0)
    head = HeadSettings(slots=("a", "b"), unimodal=True)
    return SiteModel(STUDY, ("a", "b"), replace(head, **settings)).eval()


def a_batch(absent: float = 0.4) -> Batch:
    return a_hospital(study=STUDY, absent=absent).splits["train"]


def test_names_are_the_contract() -> None:
    roots = {".".join(n.split(".")[:2]) for n in a_model().state_dict()}
    assert roots == {"enc.a", "enc.b", "head.a", "head.b", "head.fused"}


@pytest.mark.parametrize("zero_fill", [False, True])
@pytest.mark.parametrize("garbage", [1.0, -1e9, float("nan"), float("inf")])
def test_the_output_does_not_depend_on_absent_content(garbage: float, zero_fill: bool) -> None:
    model, batch = a_model(zero_fill=zero_fill), a_batch()
    # A field inside a present modality is missing, too.
    batch.fields["a"][0, 0] = False
    expected = model(batch)

    dirty = {m: torch.where(batch.fields[m], x, garbage) for m, x in batch.inputs.items()}
    found = model(replace(batch, inputs=dirty))

    assert torch.equal(found.fused, expected.fused)
    for m in ("a", "b"):
        there = batch.present[m]
        assert torch.equal(found.unimodal[m][there], expected.unimodal[m][there])


def test_a_patient_without_any_modality_gets_a_finite_output() -> None:
    batch = a_batch()
    nobody = {m: torch.zeros_like(p) for m, p in batch.present.items()}
    output = a_model()(replace(batch, present=nobody))

    assert torch.isfinite(output.fused).all()
    assert all((h == 0).all() for h in output.embeddings.values())


def test_b16_the_gradient_of_an_absent_encoder_is_exactly_zero() -> None:
    model, batch = a_model().train(), a_batch(absent=0.0)
    nobody = torch.zeros_like(batch.present["b"])
    output = model(replace(batch, present=batch.present | {"b": nobody}))

    loss = output.fused.square().mean()
    loss.backward()

    assert torch.isfinite(loss)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all((g == 0).all() for n, g in gradients.items() if n.startswith("enc.b."))
    assert any((g != 0).any() for n, g in gradients.items() if n.startswith("enc.a."))


def test_presence_bits_tell_a_missing_modality_from_a_zero_embedding() -> None:
    model = a_model()
    h = {m: torch.zeros(1, STUDY.embedding) for m in ("a", "b")}
    both, one = (
        model.classify(h, {"a": torch.tensor([True]), "b": torch.tensor([b])}).fused
        for b in (True, False)
    )
    assert not torch.equal(both, one)

    plain = a_model(presence_bits=False)
    both, one = (
        plain.classify(h, {"a": torch.tensor([True]), "b": torch.tensor([b])}).fused
        for b in (True, False)
    )
    assert torch.equal(both, one)


def test_a_slot_without_an_encoder_is_zero_with_a_zero_bit() -> None:
    torch.manual_seed(0)
    head = HeadSettings(slots=("a", "b"), hidden=0)
    model = SiteModel(STUDY, ("a",), head).eval()
    batch = a_batch(absent=0.0).restricted(("a",))

    fused = model.head["fused"][0]
    h = model.embed(batch)[0]["a"]
    d = STUDY.embedding
    expected = h @ fused.weight[:, :d].T + fused.weight[:, 2 * d] + fused.bias

    torch.testing.assert_close(model(batch).fused, expected)


def test_a_modality_may_not_be_called_fused() -> None:
    with pytest.raises(StudyError, match="fused"):
        SiteModel(a_study({"fused": 2}), ("fused",), HeadSettings(slots=("fused",)))


class Counting(torch.nn.Module):
    """An encoder that remembers how many patients it was shown."""

    present_only = True
    shown = 0

    def forward(self, x: torch.Tensor, fields: torch.Tensor) -> torch.Tensor:
        self.shown = x.shape[0]
        return x[:, :3] + 1.0


def test_a_costly_encoder_is_shown_only_the_patients_who_have_the_modality() -> None:
    encoder, batch = Counting(), a_batch()
    there = batch.present["a"]
    h = encoded(encoder, batch, "a")

    assert encoder.shown == int(there.sum()) < batch.size
    assert torch.equal(h[there], batch.inputs["a"][there][:, :3] + 1.0)
    assert (h[~there] == 0).all()
