"""The series encoder."""

import warnings

import pytest
import torch
from torch import nn

from polyclinic import models
from polyclinic.errors import StudyError
from polyclinic.models.series import GruLayer, TcnLayer, carried
from polyclinic.study import Modality
from polyclinic.training import initialise

NETWORKS = pytest.mark.parametrize("network", ["gru", "tcn"])


def panel(features: int = 2, hours: int = 6, **encoder: object) -> Modality:
    return Modality(
        kind="series",
        features=tuple(f"f{i}" for i in range(features)),
        recipe={"hours": hours},
        encoder={"hidden": 8, **encoder},
    )


def series(batch: int = 5, steps: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, steps, 2, generator=draw)
    fields = torch.rand(batch, steps, 2, generator=draw) < 0.4
    return torch.where(fields, x, 0.0), fields


def test_a_step_tells_the_last_value_whether_it_is_new_and_how_old_it_is() -> None:
    x = torch.tensor([[0.0, 5.0, 0.0, 7.0]])[..., None]  # one patient, one feature, four steps
    fields = torch.tensor([[False, True, False, True]])[..., None]
    value, mask, since = carried(x, fields)[0].T
    assert value.tolist() == [0.0, 5.0, 5.0, 7.0]
    assert mask.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert since.tolist() == [0.25, 0.0, 0.25, 0.0]  # in quarters of the four steps


def test_the_recurrent_layer_computes_what_torch_computes() -> None:
    torch.manual_seed(0)
    ours, theirs = GruLayer(3, 4), nn.GRU(3, 4, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.input.weight)
        theirs.bias_ih_l0.copy_(ours.input.bias)
        theirs.weight_hh_l0.copy_(ours.state.weight)
        theirs.bias_hh_l0.copy_(ours.state.bias)
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(ours(x), theirs(x)[0])


def test_a_convolution_looks_at_the_past_only() -> None:
    torch.manual_seed(0)
    layer = TcnLayer(2, 2, kernel=3, dilation=2)
    layer.norm = nn.Identity()  # it looks at all steps of the patient, as an encoder may
    x = torch.randn(1, 2, 8)
    changed = x.clone()
    changed[:, :, 5] += 1.0
    differs = (layer(x) != layer(changed)).any(dim=1)[0]
    assert differs.tolist() == [False] * 5 + [True, False, True]  # step 5, and 2 steps later


@NETWORKS
@pytest.mark.parametrize("garbage", [7.0, float("nan"), float("inf")])
def test_what_stands_in_absent_cells_does_not_matter(network: str, garbage: float) -> None:
    encoder = models.build("vitals", panel(network=network), 3).eval()
    x, fields = series()
    assert torch.equal(encoder(x, fields), encoder(torch.where(fields, x, garbage), fields))


@NETWORKS
def test_a_patient_without_any_value_is_finite_and_has_a_finite_gradient(network: str) -> None:
    encoder = models.build("vitals", panel(network=network), 3)
    x, fields = series()
    fields[2] = False
    out = encoder(x, fields)
    out.square().sum().backward()
    assert out.shape == (5, 3)
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@NETWORKS
def test_the_others_of_a_batch_do_not_matter(network: str) -> None:
    encoder = models.build("vitals", panel(network=network, layers=2), 3)
    x, fields = series()
    alone = torch.cat([encoder(x[i : i + 1], fields[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(encoder(x, fields), alone)
    assert not list(encoder.buffers())


@NETWORKS
def test_when_something_was_measured_matters(network: str) -> None:
    encoder = models.build("vitals", panel(network=network), 3).eval()
    x, fields = torch.zeros(2, 6, 2), torch.zeros(2, 6, 2, dtype=torch.bool)
    x[0, 1, 0] = x[1, 4, 0] = 2.0
    fields[0, 1, 0] = fields[1, 4, 0] = True
    early, late = encoder(x, fields)
    assert not torch.allclose(early, late)


@NETWORKS
def test_weights_are_drawn_from_the_seed(network: str) -> None:
    drawn = []
    for _ in range(2):
        whole = nn.ModuleDict({"enc": models.build("vitals", panel(network=network), 3)})
        initialise(whole, ["enc"], 7)
        drawn.append(torch.cat([p.flatten() for p in whole.parameters()]))
    assert torch.equal(drawn[0], drawn[1])


@NETWORKS
def test_opacus_gives_every_patient_its_own_gradient(network: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # opacus' own, on import
        from opacus import GradSampleModule
        from opacus.validators import ModuleValidator
    encoder = models.build("vitals", panel(network=network), 3)
    assert ModuleValidator.validate(encoder, strict=False) == []
    x, fields = series(batch=4)
    direction = torch.tensor([1.0, -2.0, 0.5])  # after a LayerNorm the norm itself is constant
    expected = []
    for i in range(4):
        encoder.zero_grad()
        (encoder(x[i : i + 1], fields[i : i + 1]) @ direction).sum().backward()
        expected.append([p.grad.clone() for p in encoder.parameters()])
    encoder.zero_grad()
    private = GradSampleModule(encoder, loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on hooks of modules whose inputs need no gradient
        (private(x, fields) @ direction).sum().backward()
    for place, parameter in enumerate(private.parameters()):
        each = torch.stack([gradients[place] for gradients in expected])
        torch.testing.assert_close(parameter.grad_sample, each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"encoder": {"hiden": 4}}, "hiden"),
        ({"encoder": {"network": "lstm"}}, "network"),
        ({"encoder": {"kernel": 1}}, "kernel"),
        ({"recipe": {"hours": 5, "step_hours": 2}}, "multiple"),
        ({"recipe": {"hours": 48, "width": 3}}, "width"),
    ],
)
def test_an_unknown_or_impossible_setting_is_named(changes: dict[str, object], named: str) -> None:
    modality = panel().model_copy(update=changes)
    with pytest.raises(StudyError, match=named):
        models.build("vitals", modality, 3)


def test_clipped_values_count_as_the_limit() -> None:
    encoder = models.build("vitals", panel(clip=2.0), 3)
    x, fields = torch.full((1, 6, 2), 50.0), torch.ones(1, 6, 2, dtype=torch.bool)
    torch.testing.assert_close(encoder(x, fields), encoder(torch.full_like(x, 2.0), fields))
