"""The segmentation model of one site."""

from itertools import chain

import pytest
import torch
from torch import Tensor, nn

from polyclinic.errors import StudyError
from polyclinic.models.scan import ScanModel, ScanNetwork, ScanOutput, least_edge
from polyclinic.objectives.segmentation import segmentation_loss
from polyclinic.training import initialise

SEQUENCES = ("flair", "t1ce", "t1", "t2")
SMALL = {
    2: ScanNetwork(dims=2, width=4, levels=3, chunk=256),
    3: ScanNetwork(dims=3, width=4, levels=3, chunk=256),
}
CLASSES, SLOTS, BATCH = 3, 2, 3
# Patient 0 lacks flair, 1 has all that is held, 2 has nothing.
PRESENT = {
    "flair": torch.tensor([False, True, False]),
    "t1": torch.tensor([True, True, False]),
}
GARBAGE = [0.0, 1e9, float("nan"), float("inf")]


def model(
    dims: int = 2, held: tuple[str, ...] = ("flair", "t1"), *, calibrated: bool = True
) -> ScanModel:
    torch.manual_seed(0)
    return ScanModel(
        SMALL[dims],
        classes=CLASSES,
        sequences=SEQUENCES,
        held=held,
        calibrated=calibrated,
        auxiliary=True,
    )


def space(dims: int, edge: int = 12) -> tuple[int, int, int]:
    return (edge, edge, 1) if dims == 2 else (edge, edge, edge)


def scans(dims: int, fill: float | None = None, edge: int = 12) -> dict[str, Tensor]:
    """Both sequences, ``fill`` where they are absent."""
    generator = torch.Generator().manual_seed(1)
    whole = {m: torch.randn(BATCH, 1, *space(dims, edge), generator=generator) for m in PRESENT}
    if fill is None:
        return whole
    return {
        m: torch.where(PRESENT[m][:, None, None, None, None], x, torch.tensor(fill))
        for m, x in whole.items()
    }


def anchors(dims: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(SLOTS * CLASSES, c, generator=generator) for c in SMALL[dims].channels)


def tensors(output: ScanOutput) -> list[Tensor]:
    return [
        output.probability,
        *output.regions,
        *output.features,
        *(output.auxiliary[m] for m in sorted(output.auxiliary)),
    ]


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.fixture(scope="module")
def published() -> ScanModel:
    with torch.device("meta"):
        return ScanModel(
            ScanNetwork(),
            classes=4,
            sequences=SEQUENCES,
            held=SEQUENCES,
            calibrated=True,
            auxiliary=True,
        )


@pytest.mark.parametrize("m", SEQUENCES)
def test_an_encoder_has_as_many_weights_as_the_published_one(published: ScanModel, m: str) -> None:
    assert count(published.enc[m]) == 1_466_496


def test_the_shared_decoder_is_the_published_one(published: ScanModel) -> None:
    dec = published.dec
    sizes = [
        len(list(part.parameters())) for part in (dec.climb, dec.classify, dec.fuse, dec.region)
    ]
    assert sizes == [18, 2, 112, 40]  # trunk 20
    assert sum(sizes) == len(list(dec.parameters())) == 172
    assert count(dec) == 2_532_588


def test_every_tensor_of_the_decoder_is_a_filter_or_its_bias(published: ScanModel) -> None:
    named = dict(published.dec.named_parameters())
    weights = {name for name in named if name.endswith(".weight")}
    assert {name.removesuffix(".weight") + ".bias" for name in weights} == set(named) - weights
    for name in weights:
        bias = named[name.removesuffix(".weight") + ".bias"]
        assert named[name].dim() == 5
        assert bias.shape == named[name].shape[:1]
    assert sum(named[name].shape[0] for name in weights) == 4_092


def test_calibration_and_auxiliary_decoder_are_the_published_ones(published: ScanModel) -> None:
    assert published.calib is not None
    assert published.aux is not None
    # The published attention also holds a convolution from h heads to 1 that it never calls.
    never_called = (4 + 1) + 3 * (8 + 1)
    assert count(published.calib) == 698_064 - never_called
    assert count(published.aux) == 586_388


@pytest.mark.parametrize("dims", [2, 3])
def test_the_names_are_the_contract(dims: int) -> None:
    site = model(dims)
    names = {name for name, _ in site.named_parameters()}
    assert names == set(site.state_dict())  # nothing but parameters
    first = {".".join(name.split(".")[: 2 if name.startswith("enc") else 1]) for name in names}
    assert first == {"enc.flair", "enc.t1", "dec", "calib", "aux"}


@pytest.mark.parametrize("held", [("flair",), ("t1", "t2")])
def test_the_decoder_does_not_depend_on_what_a_site_holds(held: tuple[str, ...]) -> None:
    shapes = [
        {name: w.shape for name, w in model(held=site).dec.named_parameters()}
        for site in (held, SEQUENCES)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes(dims: int) -> None:
    out = model(dims)(scans(dims), PRESENT, anchors(dims))
    places = space(dims)
    assert out.probability.shape == (BATCH, CLASSES, *places)
    assert [p.shape for p in out.regions] == [out.probability.shape] * 3
    assert {m: p.shape for m, p in out.auxiliary.items()} == dict.fromkeys(
        PRESENT, out.probability.shape
    )
    last = (lambda n: 1) if dims == 2 else (lambda n: n)
    assert [tuple(z.shape) for z in out.features] == [
        (BATCH, c, n, n, last(n)) for c, n in ((4, 12), (8, 6), (16, 3))
    ]
    torch.testing.assert_close(out.probability.sum(1), torch.ones(BATCH, *places))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_b10_what_stands_in_an_absent_sequence_does_not_matter(dims: int, garbage: float) -> None:
    site = model(dims, calibrated=False)
    clean = site(scans(dims), PRESENT)
    dirty = site(scans(dims, garbage), PRESENT)
    for one, other in zip(tensors(clean), tensors(dirty), strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)


def test_b10_nor_does_it_for_the_gradient() -> None:
    gradients = []
    for garbage in (0.0, float("nan")):
        site, labels = model(calibrated=False), torch.zeros(BATCH, *space(2), dtype=torch.int64)
        segmentation_loss(site(scans(2, garbage), PRESENT), labels, PRESENT).sum().backward()
        gradients.append([w.grad for w in site.parameters() if w.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_patient_does_not_depend_on_the_others_of_a_batch(dims: int) -> None:
    site, x = model(dims).eval(), scans(dims)
    together = site(x, PRESENT, anchors(dims)).probability
    for i in range(BATCH):
        alone = site(
            {m: v[i : i + 1] for m, v in x.items()},
            {m: v[i : i + 1] for m, v in PRESENT.items()},
            anchors(dims),
        )
        torch.testing.assert_close(alone.probability[0], together[i], rtol=1e-3, atol=1e-4)


def test_a_sequence_not_held_not_given_or_not_declared_is_absent() -> None:
    site, x = model(held=("flair", "t1"), calibrated=False), scans(2)
    here = {"flair": torch.ones(BATCH, dtype=torch.bool)}
    everybody = {**here, "t1": ~here["flair"]}
    expected = site(x, everybody).probability
    assert torch.equal(site({"flair": x["flair"]}, everybody).probability, expected)
    assert torch.equal(site(x, here).probability, expected)
    stranger = {**x, "t2": torch.full_like(x["t1"], float("nan"))}
    also = {**everybody, "t2": here["flair"]}
    assert torch.equal(site(stranger, also).probability, expected)


def test_every_present_sequence_matters_and_which_one_it_is() -> None:
    site, x = model(calibrated=False), scans(2)
    everybody = {m: torch.ones(BATCH, dtype=torch.bool) for m in PRESENT}
    out = site(x, everybody).probability
    for m in PRESENT:
        less = {**everybody, m: ~everybody[m]}
        assert not torch.allclose(site(x, less).probability, out)
    swapped = {"flair": x["t1"], "t1": x["flair"]}
    assert not torch.allclose(site(swapped, everybody).probability, out)


@pytest.mark.parametrize("known", [None, torch.zeros(SLOTS * CLASSES, dtype=torch.bool)])
def test_without_a_known_anchor_the_calibration_changes_nothing(known: Tensor | None) -> None:
    site, x = model(), scans(2)
    plain = site(x, PRESENT).probability
    assert torch.equal(
        plain, site(x, PRESENT, anchors() if known is not None else None, known).probability
    )
    assert not torch.allclose(plain, site(x, PRESENT, anchors()).probability)


def test_features_of_the_lowest_level_are_those_before_calibration() -> None:
    site, x = model(), scans(2)
    plain, calibrated = site(x, PRESENT), site(x, PRESENT, anchors())
    assert torch.equal(plain.features[-1], calibrated.features[-1])
    assert not torch.allclose(plain.features[0], calibrated.features[0])


def test_the_auxiliary_decoder_runs_in_training_only_and_is_0_where_a_sequence_is_absent() -> None:
    site, x = model(), scans(2)
    alone = site(x, PRESENT).auxiliary
    for m, there in PRESENT.items():
        torch.testing.assert_close(alone[m].sum(1).mean((1, 2, 3)), there.float())
    assert site.eval()(x, PRESENT).auxiliary == {}


@pytest.mark.parametrize("dims", [2, 3])
def test_every_filter_learns(dims: int) -> None:
    site, generator = model(dims), torch.Generator().manual_seed(3)
    labels = torch.randint(0, CLASSES, (BATCH, *space(dims)), generator=generator)
    out = site(scans(dims), PRESENT, anchors(dims))
    segmentation_loss(out, labels, PRESENT).mean().backward()
    for name, weight in site.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        # A bias before a normalisation has no effect, here as in the authors' network.
        assert name.endswith(".bias") or weight.grad.any(), name


def test_an_encoder_of_a_sequence_that_nobody_has_gets_no_gradient() -> None:
    site, nobody = model(), {**PRESENT, "t1": torch.zeros(BATCH, dtype=torch.bool)}
    site(scans(2), nobody).probability.square().sum().backward()
    assert all(w.grad is None for w in site.enc["t1"].parameters())
    assert all(w.grad is not None for w in site.enc["flair"].parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_the_least_edge_works_and_one_less_is_refused(dims: int) -> None:
    site, edge = model(dims), least_edge(SMALL[dims])
    assert torch.isfinite(site(scans(dims, edge=edge), PRESENT).probability).all()
    with pytest.raises(ValueError, match=f"at least {edge}"):
        site(scans(dims, edge=edge - 1), PRESENT)


def test_a_volume_is_no_slice() -> None:
    with pytest.raises(ValueError, match=r"last axis of 12"):
        model(2)(scans(3), PRESENT)


@pytest.mark.parametrize("dims", [2, 3])
def test_every_weight_is_drawn_and_a_group_does_not_depend_on_the_others(dims: int) -> None:
    def drawn(held: tuple[str, ...], groups: list[str]) -> ScanModel:
        with torch.device("meta"):
            site = model(dims, held)
        site.to_empty(device="cpu")
        for weight in chain(site.parameters(), site.buffers()):
            nn.init.constant_(weight, float("nan"))
        initialise(site, groups, 7)
        return site

    site = drawn(("flair", "t1"), ["enc.flair", "enc.t1", "dec", "calib", "aux"])
    other = drawn(("t1",), ["aux", "calib", "dec", "enc.t1"])
    weights = dict(site.named_parameters())
    assert all(torch.isfinite(w).all() for w in weights.values())
    for name, weight in other.named_parameters():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"sequences": ()}, {"held": ("pet",)}])
def test_a_model_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    right = {"classes": 2, "sequences": SEQUENCES, "held": (), "calibrated": False}
    with pytest.raises(StudyError):
        ScanModel(SMALL[2], auxiliary=False, **{**right, **wrong})  # type: ignore[arg-type]


def test_a_sequence_that_torch_has_another_use_for_is_refused_by_name() -> None:
    with pytest.raises(StudyError, match="'type'"):
        ScanModel(
            ScanNetwork(width=4, levels=2),
            classes=2,
            sequences=("type",),
            held=("type",),
            calibrated=False,
            auxiliary=False,
        )
