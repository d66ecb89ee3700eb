"""FedAvg keyed by modality, FedProx."""

import numpy as np
import pytest
import torch

from hospital import a_hospital, a_study
from polyclinic.algorithms import fedavg
from polyclinic.comparison import run_federation
from polyclinic.errors import ContractViolation, StudyError
from polyclinic.exchange import State, Update
from polyclinic.models.multimodal import HeadSettings, SiteModel
from polyclinic.models.tensors import load, tensors_of
from polyclinic.objectives.task import task_loss
from polyclinic.training import seeded

STUDY = a_study()


def update_like(state: State, value: float, prefix: str = "", **counts: float) -> Update:
    """An update whose every tensor under ``prefix`` is ``value``."""
    tensors = {n: np.full_like(a, value) for n, a in state.tensors.items() if n.startswith(prefix)}
    return Update(tensors, {"n": 10.0, "n.a": 10.0, "n.b": 10.0} | counts)


def opened(**settings: object) -> tuple[fedavg.Server, State]:
    server = fedavg.Server(**settings)
    state = server.initial(STUDY)
    server.begin(STUDY, state, 1)
    return server, state


def test_encoders_weigh_by_the_patients_who_carry_the_modality() -> None:
    server, state = opened()
    server.accept("h1", update_like(state, 1.0, **{"n.a": 30.0, "n.b": 10.0}))
    server.accept("h2", update_like(state, 5.0, **{"n.a": 10.0, "n.b": 30.0}))
    after = server.finish()

    # a: (30·1 + 10·5) / 40 = 2; b: (10·1 + 30·5) / 40 = 4
    for name, old in state.tensors.items():
        step = 2.0 if name.startswith("enc.a.") else 4.0
        np.testing.assert_allclose(after.tensors[name], old + step, rtol=1e-6)
    assert after.round == 1


@pytest.mark.parametrize(("weight", "step"), [("uniform", 3.0), ("n", 2.0)])
def test_other_weight_rules(weight: str, step: float) -> None:
    server, state = opened(weight=weight)
    server.accept("h1", update_like(state, 1.0, n=30.0))
    server.accept("h2", update_like(state, 5.0, n=10.0))
    after = server.finish()
    for name, old in state.tensors.items():
        np.testing.assert_allclose(after.tensors[name], old + step, rtol=1e-6)


def test_f16_a_modality_nobody_sent_keeps_its_weights_bit_for_bit() -> None:
    server, state = opened()
    server.accept("h1", update_like(state, 1.0, "enc.a."))
    after = server.finish()

    assert after.tensors.keys() == state.tensors.keys()
    for name, old in state.tensors.items():
        assert np.array_equal(after.tensors[name], old) == name.startswith("enc.b.")


def test_f21_a_round_without_updates_gives_the_old_tensors_bit_for_bit() -> None:
    server, state = opened()
    after = server.finish()
    assert after.round == 1
    assert all(after.tensors[n].tobytes() == a.tobytes() for n, a in state.tensors.items())


def test_f12_a_second_update_of_a_site_is_refused_and_changes_nothing() -> None:
    once, state = opened()
    once.accept("h1", update_like(state, 1.0))
    twice, _ = opened()
    twice.accept("h1", update_like(state, 1.0))
    with pytest.raises(ContractViolation):
        twice.accept("h1", update_like(state, 100.0))
    alone, both = once.finish(), twice.finish()
    assert all(np.array_equal(both.tensors[n], a) for n, a in alone.tensors.items())


def test_f14_f15_f17_f19_a_bad_update_is_refused_whole() -> None:
    server, state = opened()
    name = "enc.b.out.bias"
    good = update_like(state, 1.0)
    bad = {
        "unknown name": {"enc.c.out.bias": np.zeros(5, np.float32)},
        "broadcastable": {name: np.zeros(1, np.float32)},
        "dtype": {name: np.zeros(5, np.float64)},
        "list": {name: [0.0] * 5},
        "NaN": {name: np.full(5, np.nan, np.float32)},
        "Inf": {name: np.full(5, np.inf, np.float32)},
        "personal": {"personal.head.fused.0.bias": np.zeros(1, np.float32)},
    }
    for i, tensors in enumerate(bad.values()):
        with pytest.raises(ContractViolation):
            server.accept(f"bad{i}", Update(good.tensors | tensors, good.scalars))
    server.accept("h1", good)
    after = server.finish()
    for n, old in state.tensors.items():
        np.testing.assert_array_equal(after.tensors[n], (old.astype(float) + 1).astype("f4"))


@pytest.mark.parametrize("n", [float("nan"), float("inf"), -200.0, True, "many", None])
def test_f18_a_count_that_is_no_number_is_refused(n: object) -> None:
    server, state = opened()
    with pytest.raises(ContractViolation):
        server.accept("h1", update_like(state, 1.0, **{"n.a": n}))  # type: ignore[arg-type]


def test_f18_counts_of_zero_leave_the_model_as_it_was() -> None:
    server, state = opened()
    server.accept("h1", update_like(state, 1.0, **{"n.a": 0.0, "n.b": 0.0}))
    after = server.finish()
    assert all(np.array_equal(after.tensors[n], a) for n, a in state.tensors.items())


def test_rate_below_one_goes_part_of_the_way() -> None:
    server, state = opened(rate=0.25)
    server.accept("h1", update_like(state, 4.0))
    after = server.finish()
    for name, old in state.tensors.items():
        np.testing.assert_allclose(after.tensors[name], old + 1.0, rtol=1e-6)


def test_a5_personal_heads_are_in_no_contract_and_no_payload() -> None:
    hospital, server = a_hospital(study=STUDY), fedavg.Server()
    trained = fedavg.Client(epochs=1).train(hospital, server.initial(STUDY), {}, 1)

    assert not any(n.startswith("head.") for n in server.contract(STUDY).specs)
    assert set(trained.update.tensors) == server.contract(STUDY).names_for(("a", "b"))
    assert "personal.head.fused.0.weight" in trained.personal


def test_a_federated_head_has_a_slot_for_every_modality_and_goes_to_every_site() -> None:
    client, server = fedavg.Client(head="federated"), fedavg.Server(head="federated")
    contract = server.contract(STUDY)
    width = 2 * STUDY.embedding + 2
    assert contract.specs["head.fused.0.weight"].shape == (128, width)
    assert contract.specs["head.fused.0.weight"].holder is None

    lonely = a_hospital("h1", ("a",), study=STUDY)
    trained = client.train(lonely, server.initial(STUDY), {}, 1)
    assert set(trained.update.tensors) == contract.names_for(("a",))
    assert trained.personal == {}


def test_one_epoch_of_one_batch_is_one_step_of_adam_from_the_broadcast_weights() -> None:
    """Algorithm 1 with E = 1 and B >= n, against plain PyTorch."""
    hospital = a_hospital("h1", ("a",), study=STUDY, n=16)
    client = fedavg.Client(epochs=1, batch_size=16, head="federated", head_dropout=0.0, lr=0.01)
    server = fedavg.Server(head="federated", head_dropout=0.0)
    state = server.initial(STUDY)
    trained = client.train(hospital, state, {}, 1)

    model = SiteModel(STUDY, ("a",), HeadSettings(slots=("a", "b"), dropout=0.0))
    load(model, state.tensors)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = hospital.splits["train"]
    task_loss(model(batch).fused, batch.labels).mean().backward()
    optimiser.step()

    for name, value in tensors_of(model).items():
        expected = value - state.tensors[name]
        np.testing.assert_allclose(trained.update.tensors[name], expected, atol=2e-6)


def test_training_twice_gives_the_same_bits_whatever_the_global_random_state() -> None:
    hospital = a_hospital(study=STUDY)
    state = fedavg.Server().initial(STUDY)
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        runs.append(fedavg.Client(epochs=2).train(hospital, state, {}, 3))
        assert torch.equal(torch.get_rng_state(), before)
    first, second = runs
    assert all(np.array_equal(second.update.tensors[n], a) for n, a in first.update.tensors.items())
    assert all(np.array_equal(second.personal[n], a) for n, a in first.personal.items())


def test_the_proximal_term_is_half_mu_times_the_squared_distance() -> None:
    w, start = [torch.tensor([1.0, 2.0])], [torch.tensor([0.0, 0.0])]
    assert fedavg.proximal_term(w, start, mu=0.2).item() == pytest.approx(0.5 * 0.2 * 5.0)


def test_fedprox_without_mu_is_fedavg_and_a_large_mu_holds_the_encoders_back() -> None:
    hospital, state = a_hospital(study=STUDY), fedavg.Server().initial(STUDY)

    def moved(mu: float) -> float:
        client = fedavg.Client(epochs=5, mu=mu)
        tensors = client.train(hospital, state, {}, 1).update.tensors
        return float(sum(np.square(a).sum() for a in tensors.values()) ** 0.5)

    assert moved(0.0) == moved(0)
    assert moved(100.0) < 0.5 * moved(0.0)


def test_with_one_site_federation_is_training_that_goes_on() -> None:
    """A4 for FedAvg: a single holder's encoder becomes the global one."""
    hospital = a_hospital("h1", study=STUDY)
    client, server = fedavg.Client(epochs=1), fedavg.Server()
    start = server.initial(STUDY)
    trained = client.train(hospital, start, {}, 1)
    result = run_federation({"h1": hospital}, client, server, STUDY, 1)
    for name, delta in trained.update.tensors.items():
        expected = start.tensors[name].astype(np.float64) + delta
        np.testing.assert_array_equal(result.state.tensors[name], expected.astype(np.float32))


def test_the_start_of_a_modality_does_not_depend_on_the_others() -> None:
    both = fedavg.Server().initial(STUDY).tensors
    alone = fedavg.Server().initial(a_study({"a": 6})).tensors
    assert all(np.array_equal(both[n], a) for n, a in alone.items())


def test_b17_a_site_with_one_class_trains_to_finite_weights() -> None:
    with seeded("b17"):
        hospital = a_hospital(study=STUDY, n=12)
    batch = hospital.splits["train"]
    batch.labels.zero_()
    state = fedavg.Server().initial(STUDY)
    trained = fedavg.Client(epochs=2, class_balance=True).train(hospital, state, {}, 1)
    assert all(np.isfinite(a).all() for a in trained.update.tensors.values())


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.0},
        {"epochs": 1.5},
        {"epochs": True},
        {"batch_size": 1},
        {"head": "shared"},
        {"mu": -1.0},
        {"fusion": "both"},
        {"modality_dropout": 1.0},
        {"label_smoothing": 1.0},
        {"head_hidden": -1},
    ],
)
def test_a_setting_out_of_range_or_without_effect_is_named(settings: dict[str, object]) -> None:
    name = next(iter(settings))
    with pytest.raises(StudyError, match="unimodal_heads" if name == "fusion" else name):
        fedavg.Client(**settings)  # type: ignore[arg-type]
