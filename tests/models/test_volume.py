"""Encoders of named sequences."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from polyclinic import models
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.models.multimodal import HeadSettings, SiteModel
from polyclinic.models.volume import VolumeEncoder
from polyclinic.study import Modality, Study, parse_study
from polyclinic.training import initialise

D = 8
SEQUENCES = ("t1", "t2", "flair")
KINDS = {
    "separate": {"widths": [8, 8]},
    "shared": {"widths": [8, 8], "shared": True},
    "mean": {"widths": [8], "fusion": "mean"},
    "private": {"widths": [8], "every_row": True},
}
NETWORKS = {"resnet18": {"network": "resnet18"}, "densenet121": {"network": "densenet121"}}


def modality(size: int = 8, **settings: object) -> Modality:
    return Modality(
        kind="volume", features=SEQUENCES, recipe={"size": [size] * 3}, encoder=settings
    )


def encoder(size: int = 8, **settings: object) -> VolumeEncoder:
    torch.manual_seed(0)
    built = models.build("mri", modality(size, **settings), D)
    assert isinstance(built, VolumeEncoder)
    return built


def volumes(count: int = 3, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, len(SEQUENCES), size, size, size, generator=generator)


SOME = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [1e9, float("nan"), float("inf")])
def test_what_stands_in_an_absent_sequence_does_not_matter(kind: str, garbage: float) -> None:
    model = encoder(**KINDS[kind])
    clean = torch.where(SOME[..., None, None, None], volumes(), torch.zeros(()))
    dirty = torch.where(SOME[..., None, None, None], volumes(), torch.tensor(garbage))
    out = model(dirty, SOME)
    assert torch.isfinite(out).all()
    assert torch.equal(out, model(clean, SOME))


@pytest.mark.parametrize("kind", KINDS)
def test_a_patient_does_not_depend_on_the_others_of_a_batch(kind: str) -> None:
    model, x = encoder(**KINDS[kind]), volumes()
    assert model.training
    together = model(x, SOME)
    alone = torch.cat([model(x[i : i + 1], SOME[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_present_sequence_matters_and_which_one_it_is(kind: str) -> None:
    model, x = encoder(**KINDS[kind], norm="none").eval(), volumes(1)
    everything = torch.ones(1, 3, dtype=torch.bool)
    out = model(x, everything)
    for s in range(3):
        less = everything.clone()
        less[0, s] = False
        assert not torch.allclose(out, model(x, less))
    assert not torch.allclose(out, model(x[:, [1, 0, 2]], everything), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patient_without_any_sequence_is_finite(kind: str) -> None:
    model = encoder(**KINDS[kind])
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    out = model(volumes(2), nothing)
    assert torch.isfinite(out).all()
    out.sum().backward()
    of_networks = [p.grad for p in model.networks.parameters() if p.grad is not None]
    assert all((g == 0).all() for g in of_networks)


def test_encoding_every_row_changes_no_number() -> None:
    few, every = encoder(widths=[8]), encoder(widths=[8], every_row=True)
    torch.testing.assert_close(few(volumes(), SOME), every(volumes(), SOME))


def test_only_present_sequences_are_computed() -> None:
    model, seen = encoder(widths=[8]), []
    for network in model.networks:
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
    model(volumes(), SOME)
    assert seen == SOME.sum(dim=0).tolist()
    seen.clear()
    model(volumes(), SOME & torch.tensor([True, True, False]))
    assert seen == [2, 2]


def test_a_shared_network_is_there_once() -> None:
    built = {s: encoder(widths=[8], shared=s).networks for s in (False, True)}
    count = {s: sum(p.numel() for p in networks.parameters()) for s, networks in built.items()}
    assert count[False] == 3 * count[True]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_networks_of_monai_give_an_embedding(network: str) -> None:
    model = encoder(32, shared=True, **NETWORKS[network])
    x, mask = volumes(1, 32), torch.tensor([[True, False, False]])
    out = model(x, mask)
    assert out.shape == (1, D)
    out.square().sum().backward()
    gradients = [p.grad is not None for p in model.networks.parameters()]
    assert all(gradients)


def test_the_residual_of_our_block_gives_monais_numbers() -> None:
    from monai.networks.nets.resnet import ResNetBlock

    from polyclinic.models.volume import GROUP_NORM, RELU, Residual

    theirs = ResNetBlock(8, 8, act=RELU, norm=GROUP_NORM)
    ours = Residual(8, 8, act=RELU, norm=GROUP_NORM)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, 4, 4, 4)
    torch.testing.assert_close(ours(x), theirs(x.clone()))


@pytest.mark.parametrize("network", ["compact", *NETWORKS])
def test_nothing_normalises_over_a_batch_or_works_in_place(network: str) -> None:
    modules = list(encoder(32, network=network, shared=True).modules())
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules)
    assert not any(getattr(m, "inplace", False) for m in modules)


def test_a_network_is_refused_where_it_would_see_nothing() -> None:
    with pytest.raises(StudyError, match="edges of at least 32"):
        encoder(16, network="densenet121")
    with pytest.raises(StudyError, match="edges of at least 16"):
        encoder(8)
    with pytest.raises(StudyError, match="encoder setting 'widths"):
        encoder(8, widths=[7])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_drawn_from_the_seed_and_none_is_left_to_chance(kind: str) -> None:
    _drawn(8, KINDS[kind])


@pytest.mark.parametrize("network", NETWORKS)
def test_every_weight_of_monais_networks_is_drawn_from_the_seed(network: str) -> None:
    _drawn(32, {"shared": True, **NETWORKS[network]})


def _drawn(size: int, settings: dict[str, object]) -> None:
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = SiteModel(a_study(size, settings), ("mri",), HeadSettings(slots=("mri",)))
        with torch.no_grad():
            for value in model.state_dict().values():
                value.fill_(float("nan"))
        initialise(model, ["enc.mri", "head.fused"], 7)
        states.append(model.state_dict())
    assert all(torch.isfinite(v).all() for v in states[0].values())
    assert all(torch.equal(v, states[1][n]) for n, v in states[0].items())


def a_study(size: int, settings: dict[str, object]) -> Study:
    return parse_study(
        {
            "name": "tiny",
            "task": {"label": "y", "classes": ["no", "yes"]},
            "modalities": {"mri": modality(size, **settings).model_dump()},
            "embedding": D,
        }
    )


def test_b16_without_any_volume_the_gradient_of_the_encoder_is_exactly_zero() -> None:
    model = SiteModel(a_study(8, KINDS["separate"]), ("mri",), HeadSettings(slots=("mri",)))
    nobody = torch.zeros(2, dtype=torch.bool)
    fields = torch.zeros(2, 3, dtype=torch.bool)
    batch = Batch({"mri": volumes(2)}, {"mri": fields}, {"mri": nobody}, torch.zeros(2).long())
    loss = model(batch).fused.square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    of_encoder = [p.grad for p in model.enc.parameters() if p.grad is not None]
    assert all((g == 0).all() for g in of_encoder)


def test_a_model_can_be_planned_without_memory() -> None:
    for name in ("compact", *NETWORKS):
        with torch.device("meta"):
            planned = models.build("mri", modality(32, network=name, shared=True), D)
        real = {n: v.shape for n, v in encoder(32, network=name, shared=True).state_dict().items()}
        assert {n: v.shape for n, v in planned.state_dict().items()} == real


def test_the_networks_have_the_sizes_that_are_told() -> None:
    sizes = {}
    for name in ("compact", *NETWORKS):
        with torch.device("meta"):
            model = models.build("mri", modality(32, network=name, shared=True), 256)
        sizes[name] = sum(p.numel() for p in model.networks.parameters()) / 1e6
    assert round(sizes["compact"], 1) == 0.9
    assert (round(sizes["resnet18"]), round(sizes["densenet121"])) == (33, 12)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        (8, {"widths": [8, 8]}),
        (8, {"widths": [8, 8], "shared": True}),
        (32, {"network": "resnet18", "shared": True}),
        (32, {"network": "densenet121", "shared": True}),
    ],
)
def test_a_gradient_per_patient_can_be_taken(size: int, settings: dict[str, object]) -> None:
    """Opacus' gradient of each patient is that of the patient alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus and torch about each other's hooks
        from opacus import GradSampleModule
        from opacus.validators import ModuleValidator

        settings = settings | {"every_row": True}
        model, x = encoder(size, **settings), volumes(2, size)
        assert ModuleValidator.validate(model, strict=False) == []
        wrapped = GradSampleModule(model, loss_reduction="sum")
        wrapped(x, SOME[:2]).square().sum().backward()
        each = {n: p.grad_sample for n, p in model.named_parameters()}
    for i in range(2):
        alone = encoder(size, **settings)
        alone(x[i : i + 1], SOME[i : i + 1]).square().sum().backward()
        for name, weight in alone.named_parameters():
            torch.testing.assert_close(each[name][i], weight.grad, rtol=1e-3, atol=1e-4)
