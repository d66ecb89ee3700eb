"""Encoders of a film."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from polyclinic import models
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.models.image import ImageEncoder
from polyclinic.models.multimodal import HeadSettings, SiteModel
from polyclinic.study import Modality, Study, parse_study
from polyclinic.training import initialise

D = 5
SMALL = {
    "compact": {"network": "compact", "widths": [8, 16]},
    "hog": {"network": "hog", "cell": 8},
    "resnet18": {"network": "resnet18"},
    "densenet121": {"network": "densenet121"},
    "vit": {"network": "vit", "patch": 8, "width": 16, "depth": 2, "heads": 2},
}


def modality(name: str, size: int = 32, **settings: object) -> Modality:
    recipe = {"size": [size, size]}
    return Modality(kind="image", recipe=recipe, encoder=SMALL[name] | settings)


def encoder(name: str, size: int = 32, **settings: object) -> ImageEncoder:
    torch.manual_seed(0)
    built = models.build("cxr", modality(name, size, **settings), D)
    assert isinstance(built, ImageEncoder)
    return built


def films(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))


def there(*present: bool) -> Tensor:
    return torch.tensor(present)[:, None]


@pytest.mark.parametrize("network", SMALL)
def test_a_film_becomes_an_embedding_of_its_own(network: str) -> None:
    model, x = encoder(network), films()
    together = model(x, there(True, True, True))
    alone = torch.cat([model(x[i : i + 1], there(True)) for i in range(3)])

    assert together.shape == (3, D)
    # In training mode, too: no layer looks at other films of the batch.
    assert model.training
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("garbage", [1e9, float("nan"), float("inf")])
def test_what_stands_in_an_absent_film_does_not_matter(network: str, garbage: float) -> None:
    model, clean = encoder(network).eval(), films()
    clean[1] = 0
    dirty = clean.clone()
    dirty[1] = garbage
    mask = there(True, False, True)

    out = model(dirty, mask)

    assert torch.isfinite(out).all()
    assert torch.equal(out, model(clean, mask))


def a_study(network: str) -> Study:
    return parse_study(
        {
            "name": "tiny",
            "task": {"label": "y", "classes": ["no", "yes"]},
            "modalities": {
                "cxr": modality(network).model_dump(),
                "lab": {"kind": "vector", "features": ["a", "b"]},
            },
            "embedding": D,
        }
    )


def a_batch(*present: bool) -> Batch:
    count, mask = len(present), torch.tensor(present)
    return Batch(
        {"cxr": films(count), "lab": torch.randn(count, 2)},
        {"cxr": mask[:, None], "lab": torch.ones(count, 2, dtype=torch.bool)},
        {"cxr": mask, "lab": torch.ones(count, dtype=torch.bool)},
        torch.zeros(count, dtype=torch.int64),
    )


def a_model(network: str) -> SiteModel:
    torch.manual_seed(0)
    head = HeadSettings(slots=("cxr", "lab"), unimodal=True)
    return SiteModel(a_study(network), ("cxr", "lab"), head)


@pytest.mark.parametrize("network", SMALL)
def test_only_patients_with_a_film_are_encoded(network: str) -> None:
    model, batch = a_model(network).eval(), a_batch(True, False, True, False)
    seen = []
    model.enc["cxr"].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
    found = model(batch)
    by_hand = model.enc["cxr"](batch.inputs["cxr"][[0, 2]], there(True, True))

    assert seen[0] == 2
    torch.testing.assert_close(found.embeddings["cxr"][[0, 2]], by_hand)
    assert (found.embeddings["cxr"][[1, 3]] == 0).all()


@pytest.mark.parametrize("network", SMALL)
def test_b16_without_any_film_the_gradient_of_the_encoder_is_exactly_zero(network: str) -> None:
    model, batch = a_model(network).train(), a_batch(False, False)
    output = model(replace(batch, inputs=batch.inputs | {"cxr": films(2) * float("nan")}))
    loss = output.fused.square().mean()
    loss.backward()

    assert torch.isfinite(loss)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all((g == 0).all() for n, g in gradients.items() if n.startswith("enc.cxr."))
    assert any((g != 0).any() for n, g in gradients.items() if n.startswith("enc.lab."))


@pytest.mark.parametrize("network", SMALL)
def test_every_weight_is_drawn_from_the_seed_and_none_is_left_to_chance(network: str) -> None:
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = SiteModel(a_study(network), ("cxr",), HeadSettings(slots=("cxr",)))
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.fill_(float("nan"))  # as memory that nobody has written
        initialise(model, ["enc.cxr", "head.fused"], 7)
        states.append(model.state_dict())
    assert all(torch.isfinite(v).all() for v in states[0].values())
    assert all(torch.equal(v, states[1][n]) for n, v in states[0].items())


@pytest.mark.parametrize("network", SMALL)
def test_a_model_can_be_planned_without_memory(network: str) -> None:
    with torch.device("meta"):
        planned = models.build("cxr", modality(network), D)
    real = {n: v.shape for n, v in encoder(network).state_dict().items()}
    assert {n: v.shape for n, v in planned.state_dict().items()} == real


@pytest.mark.parametrize("network", SMALL)
def test_every_weight_takes_part(network: str) -> None:
    model = encoder(network)
    model(films(), there(True, True, True)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("network", SMALL)
def test_a_gradient_per_patient_can_be_taken(network: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus and torch about each other's hooks
        from opacus import GradSampleModule
        from opacus.validators import ModuleValidator

        model, x = encoder(network), films(2)
        assert ModuleValidator.validate(model, strict=False) == []
        wrapped = GradSampleModule(model, loss_reduction="sum")
        wrapped(x, there(True, True)).square().sum().backward()
        each = {n: p.grad_sample for n, p in model.named_parameters()}
    for i in range(2):
        alone = encoder(network)
        alone(x[i : i + 1], there(True)).square().sum().backward()
        for name, weight in alone.named_parameters():
            torch.testing.assert_close(each[name][i], weight.grad, rtol=1e-3, atol=1e-4)


def test_scoring_takes_films_in_parts_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, mask = encoder("compact").eval(), films(5), there(*[True] * 5)
    whole = model(x, mask)
    seen = []
    model.network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
    monkeypatch.setattr("polyclinic.models.image.PIXELS_AT_ONCE", 2 * 32 * 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x, mask), whole)
    assert seen == [2, 2, 1]
    seen.clear()
    model(x, mask)  # a gradient needs all activations anyway
    assert seen == [5]


def test_batch_normalisation_is_there_only_for_who_asks() -> None:
    for network in SMALL:
        assert not any(isinstance(m, nn.BatchNorm2d) for m in encoder(network).modules())
    for network in ("compact", "resnet18", "densenet121"):
        asked = encoder(network, 64, feature_norm="batch")
        assert any(isinstance(m, nn.BatchNorm2d) for m in asked.modules())


def test_nothing_is_computed_in_place() -> None:
    for network in SMALL:
        assert not any(getattr(m, "inplace", False) for m in encoder(network).modules())


def test_the_networks_have_the_sizes_that_are_told() -> None:
    sizes = {}
    for network in SMALL:
        plain = Modality(kind="image", encoder={"network": network})
        with torch.device("meta"):
            model = models.build("cxr", plain, 256)
        sizes[network] = sum(p.numel() for p in model.parameters())
    assert 100_000 < sizes["compact"] < 300_000
    assert 11_000_000 < sizes["resnet18"] < 12_000_000
    assert 7_000_000 < sizes["densenet121"] < 8_000_000
    assert 5_000_000 < sizes["vit"] < 6_000_000


@pytest.mark.parametrize(
    ("network", "size", "settings"),
    [
        ("vit", 36, {}),
        ("vit", 512, {}),
        ("vit", 32, {"width": 20, "heads": 3}),
        ("resnet18", 16, {}),
        ("compact", 32, {"widths": [8] * 6}),
        ("compact", 32, {"widths": [9]}),
        ("compact", 32, {"network": "alexnet"}),
        ("compact", 32, {"unknown": 1}),
    ],
)
def test_a_network_that_does_not_fit_is_refused(
    network: str, size: int, settings: dict[str, object]
) -> None:
    with pytest.raises(StudyError):
        encoder(network, size, **settings)


@pytest.mark.parametrize(("network", "edge"), [("compact", 16), ("resnet18", 32)])
def test_batch_normalisation_bears_a_batch_with_a_single_film(network: str, edge: int) -> None:
    def built(size: int) -> torch.nn.Module:
        encoder = {"network": network, "feature_norm": "batch"}
        recipe = {"size": [size, size]}
        return models.build("cxr", Modality(kind="image", recipe=recipe, encoder=encoder), 4)

    # One film, one place at the end: nothing to take a variance over.
    with pytest.raises(StudyError, match=f"at least {2 * edge}"):
        built(edge)
    there = torch.ones((1, 1), dtype=torch.bool)
    h = built(2 * edge).train()(torch.randn(1, 1, 2 * edge, 2 * edge), there)
    assert torch.isfinite(h).all()
