"""FedMM's invariants A1-A11; A1, A2 and A6 at the pull stand in tests/objectives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hospital import Hospital, a_hospital, a_study
from polyclinic.algorithms import fedavg, fedmm
from polyclinic.algorithms.fedmm import local_loss
from polyclinic.comparison import run_federation
from polyclinic.errors import ContractViolation, StudyError
from polyclinic.exchange import State, Update
from polyclinic.models.multimodal import HeadSettings, SiteModel
from polyclinic.models.tensors import load
from polyclinic.objectives.prototype import pull

STUDY = a_study()
PROTO_A, COUNT_A = "store.proto.a", "store.count.a"


def opened(**settings: object) -> tuple[fedmm.Server, State]:
    server = fedmm.Server(**settings)
    state = server.initial(STUDY)
    server.begin(STUDY, state, 1)
    return server, state


def means(state: State, rows: dict[int, float], m: str = "a", delta: float = 0.0) -> Update:
    """An update with class means: class -> value of every component, 1 vote each."""
    proto, count = np.zeros((2, STUDY.embedding), "f4"), np.zeros(2, "f4")
    for c, value in rows.items():
        proto[c], count[c] = value, 1.0
    tensors = {n: np.full_like(a, delta) for n, a in state.tensors.items() if f"enc.{m}." in n}
    tensors |= {f"store.proto.{m}": proto, f"store.count.{m}": count}
    return Update(tensors, {"n": 20.0, "n.a": 20.0, "n.b": 20.0})


def three_sites() -> dict[str, Hospital]:
    held = {"h1": ("a",), "h2": ("a", "b"), "h3": ("b",)}
    return {s: a_hospital(s, m, study=STUDY, seed=i) for i, (s, m) in enumerate(held.items())}


def test_eq11_a_hospital_without_the_class_does_not_vote() -> None:
    server, state = opened()
    server.accept("h1", means(state, {0: 3.0}))
    server.accept("h2", means(state, {0: 9.0, 1: 7.0}))
    after = server.finish().tensors

    # class 0: (3 + 9) / 2 = 6; class 1: only h2 saw it, 7
    assert (after[PROTO_A][0] == 6.0).all()
    assert (after[PROTO_A][1] == 7.0).all()
    assert after[COUNT_A].tolist() == [1.0, 1.0]


def test_prototypes_weigh_sites_alike_or_by_patients() -> None:
    results = {}
    for weight in ("uniform", "count"):
        server, state = opened(prototype_weight=weight)
        for site, value, n in (("h1", 0.0, 30.0), ("h2", 4.0, 10.0)):
            update = means(state, {0: value})
            update.tensors[COUNT_A][0] = n if weight == "count" else 1.0
            server.accept(site, update)
        results[weight] = server.finish().tensors[PROTO_A][0, 0]
    assert results == {"uniform": 2.0, "count": 1.0}  # (0 + 4) / 2; (30·0 + 10·4) / 40


def test_a_class_nobody_saw_this_round_keeps_its_prototype() -> None:
    server, state = opened()
    server.accept("h1", means(state, {0: 3.0, 1: 5.0}))
    first = server.finish()
    server.begin(STUDY, first, 2)
    server.accept("h1", means(state, {0: 4.0}))
    second = server.finish()

    assert (second.tensors[PROTO_A][0] == 4.0).all()
    assert (second.tensors[PROTO_A][1] == 5.0).all()
    assert second.tensors[COUNT_A].tolist() == [1.0, 1.0]


def test_a3_a_prototype_depends_only_on_holders() -> None:
    results = []
    for others in (False, True):
        server, state = opened()
        server.accept("h1", means(state, {0: 3.0}, delta=0.1))
        if others:
            server.accept("h3", means(state, {0: -50.0}, m="b", delta=9.0))
        results.append(server.finish().tensors)
    without, with_others = results
    for name, value in without.items():
        if name.split(".")[1] == "a" or name.endswith(".a"):
            np.testing.assert_array_equal(with_others[name], value)


def test_a4_with_a_single_holder_the_global_encoder_is_its_own() -> None:
    sites = three_sites()
    del sites["h2"]
    client, server = fedmm.Client(epochs=1), fedmm.Server()
    start = server.initial(STUDY)
    view = start.restricted(server.contract(STUDY).names_for(("a",)))
    alone = client.train(sites["h1"], view, {}, 1)
    result = run_federation(sites, client, server, STUDY, 1)
    for name in (n for n in alone.update.tensors if n.startswith("enc.")):
        expected = start.tensors[name].astype(np.float64) + alone.update.tensors[name]
        np.testing.assert_array_equal(result.state.tensors[name], expected.astype(np.float32))


def test_a5_head_keys_are_in_no_payload() -> None:
    server = fedmm.Server()
    contract, state = server.contract(STUDY), server.initial(STUDY)
    assert not any(n.startswith("head.") for n in contract.specs)
    for site in three_sites().values():
        names = contract.names_for(site.modalities)
        trained = fedmm.Client(epochs=1).train(site, state.restricted(names), {}, 1)
        assert set(trained.update.tensors) == names
        assert fedmm.Client(final_epochs=1).finalise(
            site, state.restricted(names), trained.personal
        ).update == Update({})


def test_a6_a11_the_loss_is_1_minus_lambda_bce_plus_beta_times_the_pull() -> None:
    task, pulls = torch.tensor([2.0]), {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}

    assert local_loss(task, {}, lam=0.25, beta=0.5).item() == 1.5  # 0.75 · 2
    at_prototypes = {m: torch.zeros(1) for m in pulls}
    assert local_loss(task, at_prototypes, lam=0.25, beta=0.5).item() == 1.5
    # 0.25 · 0.5 · (3 + 4) = 0.875, and twice that for 2 β
    assert local_loss(task, pulls, lam=0.25, beta=0.5).item() == 1.5 + 0.875
    assert local_loss(task, pulls, lam=0.25, beta=1.0).item() == 1.5 + 1.75


def test_a7_the_pull_has_no_gradient_at_the_head() -> None:
    model = SiteModel(STUDY, ("a", "b"), HeadSettings(slots=("a", "b")))
    batch = a_hospital(study=STUDY).splits["train"]
    output = model(batch)
    known = torch.ones(2, dtype=torch.bool)
    loss = sum(
        pull(h, output.present[m], torch.randn(2, STUDY.embedding), known, batch.labels).sum()
        for m, h in output.embeddings.items()
    )
    loss.backward()

    heads = [p.grad for n, p in model.named_parameters() if n.startswith("head.")]
    assert all(g is None or not g.any() for g in heads)
    assert model.enc["a"].out.weight.grad.any()


def test_a8_the_order_of_clients_does_not_change_a_bit() -> None:
    sites = three_sites()
    client, server = fedmm.Client(epochs=1), fedmm.Server()
    forth = run_federation(sites, client, server, STUDY, 2)
    back = run_federation(dict(reversed(sites.items())), client, server, STUDY, 2)
    for name, value in forth.state.tensors.items():
        np.testing.assert_array_equal(back.state.tensors[name], value)


def test_a9_without_prototypes_it_is_keyed_fedavg_with_personal_heads() -> None:
    sites = three_sites()
    ours = fedmm.Client(epochs=2, prototypes=False, final_head="keep")
    mine = run_federation(sites, ours, fedmm.Server(), STUDY, 3)
    plain = run_federation(sites, fedavg.Client(epochs=2), fedavg.Server(), STUDY, 3)

    for name, value in plain.state.tensors.items():
        np.testing.assert_array_equal(mine.state.tensors[name], value)
    heads = [n for n in plain.personal["h2"] if n.startswith("personal.head.")]
    assert heads
    for name in heads:
        np.testing.assert_array_equal(mine.personal["h2"][name], plain.personal["h2"][name])


def test_a9_beta_zero_alone_still_scales_the_bce() -> None:
    hospital, state = a_hospital(study=STUDY), fedmm.Server().initial(STUDY)
    losses = {
        prototypes: fedmm.Client(epochs=1, beta=0.0, alpha=0.0, prototypes=prototypes)
        .train(hospital, state, {}, 1)
        .metrics["train/loss"]
        for prototypes in (True, False)
    }
    assert losses[True] == pytest.approx(0.5 * losses[False], rel=1e-5)  # λ = 1/2 at α = 0


def test_a10_a_class_missing_everywhere_has_no_prototype_and_the_loss_is_finite() -> None:
    sites = three_sites()
    for site in sites.values():
        site.splits["train"].labels.zero_()
    result = run_federation(sites, fedmm.Client(epochs=1), fedmm.Server(), STUDY, 3)

    assert result.state.tensors[COUNT_A].tolist() == [1.0, 0.0]
    assert not result.state.tensors[PROTO_A][1].any()
    assert all(np.isfinite(heard["train/loss"]) for r in result.metrics for heard in r.values())


def test_a_class_below_the_minimum_cell_does_not_vote_and_shows_no_mean() -> None:
    hospital = a_hospital("h1", ("a",), study=STUDY, n=30, minimum_cell=11)
    labels = hospital.splits["train"].labels
    labels.zero_()
    labels[:10] = 1  # ten patients of class 1: one too few
    trained = fedmm.Client(epochs=1).train(hospital, fedmm.Server().initial(STUDY), {}, 1)

    assert trained.update.tensors[COUNT_A].tolist() == [1.0, 0.0]
    assert not trained.update.tensors[PROTO_A][1].any()
    assert trained.update.tensors[PROTO_A][0].any()
    assert "proto_separation/a" not in trained.metrics


def test_counts_below_the_minimum_cell_are_announced_as_the_cell() -> None:
    hospital = a_hospital("h1", ("a",), study=STUDY, n=8, minimum_cell=11)
    trained = fedmm.Client(epochs=1).train(hospital, fedmm.Server().initial(STUDY), {}, 1)
    assert trained.update.scalars == {"n": 11.0, "n.a": 11.0}


def test_no_statistic_of_embeddings_of_fewer_patients_than_a_cell_is_told() -> None:
    few, enough = (
        fedmm.Client(epochs=1).train(
            a_hospital("h1", ("a",), study=STUDY, n=n, minimum_cell=11),
            fedmm.Server().initial(STUDY),
            {},
            1,
        )
        for n in (10, 11)
    )
    assert not any(k.startswith(("proto_", "embedding_")) for k in few.metrics)
    assert "embedding_variance/a" in enough.metrics


def test_prototypes_are_class_means_of_the_trained_model_in_eval_mode() -> None:
    study = a_study(encoder={"hidden": [8], "dropout": 0.5})
    hospital, server = a_hospital("h1", ("a",), study=study), fedmm.Server()
    state = server.initial(study)
    found = fedmm.Client(epochs=1).train(hospital, state, {}, 1).update.tensors

    model = SiteModel(study, ("a",), HeadSettings(slots=("a",))).eval()
    load(model, {n: a + found[n] for n, a in state.tensors.items() if n.startswith("enc.a.")})
    batch = hospital.splits["train"]
    with torch.no_grad():
        h = model.embed(batch)[0]["a"]
    expected = torch.stack([h[batch.labels == c].mean(0) for c in (0, 1)])
    np.testing.assert_allclose(found[PROTO_A], expected, atol=1e-5)

    other = fedmm.Client(epochs=1, embedding_mode="train").train(hospital, state, {}, 1)
    assert np.abs(other.update.tensors[PROTO_A] - found[PROTO_A]).max() > 1e-3


def test_a_strong_pull_brings_embeddings_to_the_prototypes() -> None:
    hospital, server = a_hospital("h1", ("a",), study=STUDY), fedmm.Server()
    state = server.initial(STUDY)
    target = np.tile(np.float32([[1.0], [-1.0]]), STUDY.embedding)
    target[:, ::2] *= -1.0
    state = State(state.tensors | {PROTO_A: target, COUNT_A: np.ones(2, "f4")}, 1)

    def distance(client: fedmm.Client) -> float:
        tensors = client.train(hospital, state, {}, 2).update.tensors
        return float(np.linalg.norm(tensors[PROTO_A] - target))

    strong = fedmm.Client(epochs=10, lr=0.01, alpha=0.0, beta=100.0)
    free = distance(replace(strong, prototypes=False))
    assert distance(strong) < 0.6 * free
    assert distance(replace(strong, norm="l2")) < 0.9 * free


def test_the_shared_bce_counts_once_or_for_each_modality() -> None:
    hospital, state = a_hospital(study=STUDY), fedmm.Server().initial(STUDY)
    once, twice = (
        fedmm.Client(epochs=1, task_loss=how).train(hospital, state, {}, 1).metrics["train/loss"]
        for how in ("once", "per_modality")
    )
    assert twice == pytest.approx(2 * once, rel=1e-5)  # two modalities, no prototypes yet


def test_the_first_round_may_only_exchange_prototypes() -> None:
    hospital, state = a_hospital(study=STUDY), fedmm.Server().initial(STUDY)
    trained = fedmm.Client(initial_prototypes="exchange").train(hospital, state, {}, 1)
    encoders = {n: a for n, a in trained.update.tensors.items() if n.startswith("enc.")}
    assert encoders
    assert not any(a.any() for a in encoders.values())
    assert trained.update.tensors[COUNT_A].tolist() == [1.0, 1.0]


def test_the_final_head_is_fresh_and_the_encoders_stay_as_they_are() -> None:
    sites, client = three_sites(), fedmm.Client(epochs=1, final_epochs=20)
    kept = replace(client, final_head="keep")
    fitted = run_federation(sites, client, fedmm.Server(), STUDY, 2)
    other = run_federation(sites, kept, fedmm.Server(), STUDY, 2)

    for name, value in other.state.tensors.items():
        np.testing.assert_array_equal(fitted.state.tensors[name], value)
    name = "personal.head.fused.0.weight"
    assert not np.array_equal(fitted.personal["h2"][name], other.personal["h2"][name])
    again = client.finalise(sites["h2"], fitted.state, {})
    np.testing.assert_array_equal(again.personal[name], fitted.personal["h2"][name])


def test_prototypes_without_counts_are_refused_whole() -> None:
    server, state = opened()
    update = means(state, {0: 1.0}, delta=1.0)
    del update.tensors[COUNT_A]
    with pytest.raises(ContractViolation):
        server.accept("h1", update)
    after = server.finish()
    assert all(np.array_equal(after.tensors[n], a) for n, a in state.tensors.items())


def test_a_site_cannot_vote_twice_by_a_large_count() -> None:
    server, state = opened()
    loud = means(state, {0: 9.0})
    loud.tensors[COUNT_A][0] = 1e9
    server.accept("h1", loud)
    server.accept("h2", means(state, {0: 3.0}))
    assert (server.finish().tensors[PROTO_A][0] == 6.0).all()


def test_unimodal_heads_are_federated_with_their_encoder() -> None:
    client = fedmm.Client(epochs=1, unimodal_heads=True, fusion="both")
    server = fedmm.Server(unimodal_heads=True)
    contract = server.contract(STUDY)
    assert contract.specs["head.a.weight"].holder == "a"
    assert "head.a.weight" in client.contract(STUDY).names_for(("a",))
    assert not any(n.startswith("head.fused") for n in contract.specs)
    result = run_federation(three_sites(), client, server, STUDY, 2)
    assert np.isfinite(result.state.tensors["head.b.weight"]).all()


def test_every_round_tells_norm_separation_and_variance_by_modality() -> None:
    result = run_federation(three_sites(), fedmm.Client(epochs=1), fedmm.Server(), STUDY, 2)
    for heard in result.metrics[:2]:
        for m in ("a", "b"):
            names = {f"{k}/{m}" for k in ("proto_norm", "proto_separation", "embedding_variance")}
            assert names <= heard["h2"].keys()


def test_three_classes_have_three_prototypes() -> None:
    study = a_study(task={"label": "y", "classes": ["x", "y", "z"]})
    sites = {s: a_hospital(s, study=study, n=30, seed=i) for i, s in enumerate(("h1", "h2"))}
    client, server = fedmm.Client(epochs=2, class_balance=True), fedmm.Server()
    result = run_federation(sites, client, server, study, 2)

    assert result.state.tensors[PROTO_A].shape == (3, study.embedding)
    assert result.state.tensors[COUNT_A].tolist() == [1.0, 1.0, 1.0]
    found = client.predict(sites["h1"], result.state, result.personal["h1"], "test")
    assert found["probability"].shape == (15, 3)
    np.testing.assert_allclose(found["probability"].sum(1), 1.0, rtol=1e-5)


def test_unpaired_patients_train_with_every_ingredient_at_once() -> None:
    sites = {s: a_hospital(s, study=STUDY, absent=0.4, seed=i) for i, s in enumerate(("h1", "h2"))}
    client = fedmm.Client(
        epochs=2,
        unimodal_heads=True,
        fusion="both",
        modality_dropout=0.5,
        class_balance=True,
        label_smoothing=0.1,
        weight_decay=0.1,
        clip_norm=1.0,
        decay_rounds=3,
        select_epoch=True,
        mu=0.01,
        head_lr=1e-2,
        pull_toward="prediction",
        prototype_weight="count",
        initial_prototypes="exchange",
    )
    server = fedmm.Server(unimodal_heads=True, prototype_weight="count", rate=0.5)
    result = run_federation(sites, client, server, STUDY, 3)
    assert all(np.isfinite(a).all() for a in result.state.tensors.values())
    assert all(np.isfinite(a).all() for p in result.personal.values() for a in p.values())


@pytest.mark.parametrize(
    "settings",
    [{"norm": "L2"}, {"beta": -1.0}, {"final_head": "new"}, {"runaway": 0.0}],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, object]) -> None:
    with pytest.raises(StudyError, match=next(iter(settings))):
        fedmm.Client(**settings)  # type: ignore[arg-type]
