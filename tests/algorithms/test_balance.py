"""MILES as a site's own policy (invariants D5, D6, D8), on every algorithm that trains locally."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hospital import Hospital, a_hospital, a_study
from polyclinic.algorithms import fedavg, fedmm, local, multi_fedavg
from polyclinic.algorithms.balance import MODALITY, Balance, encoder_groups, modality_scores
from polyclinic.comparison import run_federation
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.models.multimodal import Output
from polyclinic.training import LocalTraining

STUDY = a_study(split={"validation": 0.3})
HALVES = {
    "fedavg": (fedavg.Client, fedavg.Server),
    "fedmm": (fedmm.Client, fedmm.Server),
    "local": (local.Client, local.Server),
    "multi_fedavg": (multi_fedavg.Client, multi_fedavg.Server),
}


def uneven(site: str = "north", seed: int = 0) -> Hospital:
    """A hospital whose modality ``a`` tells the class and whose ``b`` is noise."""
    hospital = a_hospital(site, study=STUDY, n=60, seed=seed, signal=3.0)
    draw = torch.Generator().manual_seed(seed)

    def noisy(batch: Batch) -> Batch:
        noise = torch.randn(batch.inputs["b"].shape, generator=draw)
        return replace(batch, inputs={**batch.inputs, "b": noise})

    return replace(hospital, splits={s: noisy(b) for s, b in hospital.splits.items()})


class Optimiser:
    """Parameter groups as an optimiser has them."""

    def __init__(self) -> None:
        weights = ("enc.a.w", "enc.b.w", "head.a.w", "head.fused.w")
        named: dict[str, Tensor] = {n: torch.zeros(1) for n in weights}
        self.param_groups = encoder_groups(named, 0.1)


def speaking(a: float, b: float) -> object:
    """A forward pass whose heads see the class as well as they are told to: 1 always, 0 never."""

    def forward(batch: Batch) -> Output:
        truth = 2.0 * batch.labels.float()[:, None] - 1.0
        noise = torch.linspace(-1, 1, batch.size)[:, None]
        heads = {"a": a * truth + (1 - a) * noise, "b": b * truth + (1 - b) * noise}
        return Output({}, batch.present, truth, heads)

    return forward


def test_d5_only_the_dominant_encoder_is_slowed_and_the_heads_never() -> None:
    optimiser = Optimiser()
    policy = Balance.of(LocalTraining(balance="miles", balance_mu=0.25), uneven(), optimiser)
    assert policy is not None
    assert policy.set_rates(speaking(1.0, 0.0)) == {"a": 0.25, "b": 1.0}
    rates = {g[MODALITY]: g["lr"] for g in optimiser.param_groups}
    assert rates == pytest.approx({"a": 0.025, "b": 0.1, "": 0.1})


def test_factors_are_set_anew_and_not_multiplied_up() -> None:
    optimiser = Optimiser()
    policy = Balance.of(LocalTraining(balance="miles", balance_mu=0.5), uneven(), optimiser)
    assert policy is not None
    for _ in range(3):
        policy.set_rates(speaking(1.0, 0.0))
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.05)
    policy.set_rates(speaking(1.0, 1.0))
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("algorithm", HALVES)
@pytest.mark.parametrize("off", [{"balance_mu": 1.0}, {"balance_tau": 1e9}])
def test_d6_without_effect_it_is_plain_training_bit_for_bit(
    algorithm: str, off: dict[str, float]
) -> None:
    client, server = HALVES[algorithm]
    sites = {"north": uneven("north", 1), "south": uneven("south", 2)}
    common = {"unimodal_heads": True, "clip_norm": 1.0}
    plain, balanced = (
        run_federation(sites, client(**common, **more), _server(server), STUDY, 2)
        for more in ({}, {"balance": "miles", **off})
    )
    assert plain.state.tensors.keys() == balanced.state.tensors.keys()
    for name, value in plain.state.tensors.items():
        np.testing.assert_array_equal(value, balanced.state.tensors[name])
    for site, kept in plain.personal.items():
        for name, value in kept.items():
            np.testing.assert_array_equal(value, balanced.personal[site][name])


def _server(kind: type) -> object:
    return kind() if kind is local.Server else kind(unimodal_heads=True)


@pytest.mark.parametrize("algorithm", HALVES)
def test_d8_what_leaves_a_site_is_the_same_with_it(algorithm: str) -> None:
    client, _ = HALVES[algorithm]
    plain, balanced = (
        client(unimodal_heads=True, **more).contract(STUDY) for more in ({}, {"balance": "miles"})
    )
    assert plain == balanced
    hospital, state = uneven(), _server(HALVES[algorithm][1]).initial(STUDY)
    half = client(unimodal_heads=True, balance="miles", epochs=2)
    trained = half.train(hospital, state, {}, 1)
    assert set(trained.update.tensors) == set(plain.specs)
    assert set(trained.update.scalars) == {"n", "n.a", "n.b"}
    assert not [m for m in trained.metrics if "util" in m]


def test_a_dominant_modality_learns_more_slowly_in_a_whole_round() -> None:
    hospital = uneven()
    state = fedavg.Server(unimodal_heads=True).initial(STUDY)

    def moved(**more: object) -> dict[str, float]:
        half = fedavg.Client(unimodal_heads=True, epochs=6, **more)
        update = half.train(hospital, state, {}, 1).update.tensors
        return {
            m: float(sum(np.square(v).sum() for n, v in update.items() if n.startswith(f"enc.{m}")))
            for m in ("a", "b")
        }

    plain = moved()
    slowed = moved(balance="miles", balance_tau=0.05, balance_mu=0.01)
    assert slowed["a"] < 0.5 * plain["a"]
    assert slowed["b"] > 0.5 * plain["b"]


def test_a_site_with_one_modality_has_nothing_to_balance() -> None:
    alone = a_hospital(modalities=("a",), study=STUDY)
    assert Balance.of(LocalTraining(balance="miles"), alone, Optimiser()) is None


def test_without_both_classes_or_whole_patients_nothing_is_slowed() -> None:
    hospital = uneven()
    whole = hospital.splits["validation"]
    one_class = replace(whole, labels=torch.zeros_like(whole.labels))
    nobody = replace(whole, present={**whole.present, "b": torch.zeros(whole.size).bool()})
    for batch in (one_class, nobody):
        patients = replace(hospital, splits={**hospital.splits, "validation": batch})
        assert modality_scores(speaking(1.0, 0.0), patients, "validation") is None
        policy = Balance.of(LocalTraining(balance="miles"), patients, Optimiser())
        assert policy is not None
        assert policy.set_rates(speaking(1.0, 0.0)) == {}


def test_without_heads_of_its_own_a_modality_is_judged_by_hiding_it() -> None:
    def forward(batch: Batch) -> Output:
        truth = 2.0 * batch.labels.float()[:, None] - 1.0
        seen = batch.present["a"][:, None].float()
        noise = torch.linspace(-1, 1, batch.size)[:, None]
        return Output({}, batch.present, seen * truth + (1 - seen) * noise, {})

    hospital = uneven()
    found = modality_scores(forward, hospital, "train")
    assert found is not None
    joint, without = found
    assert (joint, without["b"]) == (1.0, 1.0)
    assert without["a"] < 0.9


@pytest.mark.parametrize(
    ("setting", "value"),
    [("balance", "mile"), ("balance_tau", -0.1), ("balance_mu", 0.0), ("balance_on", "test")],
)
def test_a_setting_out_of_range_is_named(setting: str, value: object) -> None:
    with pytest.raises(StudyError, match=setting):
        fedavg.Client(**{setting: value})
