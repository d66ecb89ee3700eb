"""Chest films with metadata: C3, C7, C8 and C11 of its design.

C1, C2 and C10 are the model's, C9 is in ``test_joint``. C4 to C6 speak of privacy noise, which this
version does not have.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hospital import Hospital, a_hospital, a_study, with_batch
from polyclinic.algorithms import cxr_metadata, fedavg
from polyclinic.algorithms.cxr_metadata import dp_group, joint_loss
from polyclinic.comparison import run_federation
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.evaluation.metrics import auroc
from polyclinic.exchange import State, Update
from polyclinic.models.joint import JointModel
from polyclinic.models.multimodal import Output
from polyclinic.objectives.task import task_loss
from polyclinic.study import Study, parse_study
from polyclinic.training import Fit

SIZES = {"cxr": 6, "labs": 3, "metadata": 4}
TOKEN = {"hidden": [8], "dropout": 0.1, "missing": "token", "presence": True}
STUDY = a_study(SIZES, encoder=TOKEN)
MODES = ("joint", "isolated", "image_only", "late")
QUICK = {"anchor": "cxr", "batch_size": 8, "lr": 1e-3}


def client(mode: str = "joint", **more: object) -> cxr_metadata.Client:
    return cxr_metadata.Client(mode=mode, **(QUICK | more))


def server(mode: str = "joint", **more: object) -> cxr_metadata.Server:
    return cxr_metadata.Server(mode=mode, anchor="cxr", **more)


def sites(study: Study = STUDY) -> dict[str, Hospital]:
    """One site with everything, one without metadata, one without films.

    Many patients lack a modality, and every third the first field (age) of the metadata they have.
    """
    held = {"all": tuple(SIZES), "films": ("cxr",), "tables": ("labs", "metadata")}
    found = {
        s: a_hospital(s, m, study=study, seed=i, absent=0.3)
        for i, (s, m) in enumerate(held.items())
    }
    for site in ("all", "tables"):
        for batch in found[site].splits.values():
            batch.fields["metadata"][::3, 0] = False
            batch.inputs["metadata"][::3, 0] = 0.0
    return found


def in_turn(hospital: Hospital, modality: str, value: float) -> Hospital:
    """The hospital with other numbers in one modality, present or not."""
    for split, batch in hospital.splits.items():
        x = {**batch.inputs, modality: torch.full_like(batch.inputs[modality], value)}
        hospital = with_batch(hospital, split, replace(batch, inputs=x))
    return hospital


@pytest.mark.parametrize(
    ("mode", "joining"),
    [("image_only", "gated"), ("late", "gated")]
    + [(m, j) for m in ("joint", "isolated") for j in ("gated", "concat", "mean")],
)
def test_sites_without_films_or_metadata_train_and_predict(mode: str, joining: str) -> None:
    ours, theirs = client(mode, joining=joining), server(mode, joining=joining)
    hospitals = sites()
    result = run_federation(hospitals, ours, theirs, STUDY, 2)
    contract = theirs.contract(STUDY)

    assert contract == ours.contract(STUDY)
    for site, patients in hospitals.items():
        mine = result.state.restricted(sorted(contract.names_for(patients.modalities)))
        found = ours.predict(patients, mine, result.personal[site], "test")
        assert np.isfinite(found["probability"]).all()
        assert found["probability"].shape == (12, 2)
    start = theirs.initial(STUDY).tensors
    moved = {n for n, a in result.state.tensors.items() if not np.array_equal(a, start[n])}
    assert any(n.startswith("enc.cxr.") for n in moved)
    assert any(n.startswith("enc.metadata.") for n in moved) == (mode != "image_only")


def test_a_site_sends_what_belongs_to_its_modalities_and_what_is_everyones() -> None:
    hospitals = sites()
    state = server().initial(STUDY)
    sent = {
        s: {".".join(n.split(".")[:3]) for n in client().train(p, state, {}, 1).update.tensors}
        for s, p in hospitals.items()
    }
    owned = ("enc.metadata.", "head.metadata.", "fuse.gate.metadata")
    assert not any(n.startswith(owned) for n in sent["films"])
    assert {"head.fused.0", "fuse.missing.cxr"} <= sent["films"] & sent["tables"]
    assert not any(n.startswith(("enc.cxr.", "head.cxr.")) for n in sent["tables"])
    assert all(any(n.startswith(o) for n in sent["tables"]) for o in owned)


def test_c7_each_group_weighs_by_the_patients_who_carry_its_modality() -> None:
    fold = server()
    state = fold.initial(STUDY)
    fold.begin(STUDY, state, 1)

    def update(value: float, held: tuple[str, ...], **counts: float) -> Update:
        names = fold.contract(STUDY).names_for(held)
        tensors = {n: np.full_like(state.tensors[n], value) for n in names}
        return Update(tensors, counts)

    fold.accept(
        "all", update(1.0, tuple(SIZES), n=40, **{"n.cxr": 30, "n.labs": 5, "n.metadata": 10})
    )
    fold.accept("films", update(5.0, ("cxr",), n=10, **{"n.cxr": 10}))
    after = fold.finish()

    # cxr: (30·1 + 10·5) / 40 = 2; metadata and labs: the one holder's 1; shared: (40 + 50) / 50
    for name, old in state.tensors.items():
        own = name.startswith(("enc.cxr.", "head.cxr."))
        shared = name.startswith(("head.fused.", "fuse.missing."))
        step = 2.0 if own else 1.8 if shared else 1.0
        np.testing.assert_allclose(after.tensors[name], old + step, rtol=1e-5)


@pytest.mark.parametrize("hidden", [0, 8])
def test_c8_with_films_alone_it_is_federated_averaging_of_the_film_model(hidden: int) -> None:
    only, wide = a_study({"cxr": 6}), a_study({"cxr": 6, "metadata": 4})
    same = {"head_hidden": hidden, "head_dropout": 0.1}
    training = {"epochs": 2, "batch_size": 8, "lr": 2e-3}
    heads = {"head": "federated", "presence_bits": False, "unimodal_heads": True}

    def films(study: Study) -> dict[str, Hospital]:
        return {s: a_hospital(s, ("cxr",), study=study, seed=i) for i, s in enumerate("ab")}

    plain = fedavg.Client(**training, **same, **heads)
    expected = run_federation(films(only), plain, fedavg.Server(**same, **heads), only, 3)
    joint = client(**training, **same, metadata_lr=2e-3)
    found = run_federation(films(wide), joint, server(**same), wide, 3)

    assert any(n.startswith("enc.cxr.") for n in expected.state.tensors)
    for name, value in expected.state.tensors.items():
        assert np.array_equal(found.state.tensors[name], value), name


def test_c3_isolated_metadata_leave_the_films_update_bit_for_bit_as_it_was() -> None:
    state = server("isolated").initial(STUDY)
    updates, metrics = [], []
    for value in (0.0, 3.0, -1e6):
        hospital = in_turn(in_turn(sites()["all"], "metadata", value), "labs", -value)
        settings = {"epochs": 2, "clip_norm": 0.1, "select_epoch": True, "class_balance": True}
        trained = client("isolated", **settings).train(hospital, state, {}, 1)
        updates.append(trained.update.tensors)
        metrics.append(trained.metrics)
    film = {n for n in updates[0] if n not in dp_group(updates[0], "cxr")}

    assert {n.split(".")[0] for n in film} == {"enc", "head"}
    for other, told in zip(updates[1:], metrics[1:], strict=True):
        assert all(np.array_equal(other[n], updates[0][n]) for n in film)
        assert any(not np.array_equal(other[n], updates[0][n]) for n in updates[0])
        assert told == metrics[0]
    assert metrics[0].keys() >= {"train/loss", "validation/auroc"}


def test_c3_isolated_the_films_encoder_neither_drops_nor_counts_while_the_rest_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learning, stock = [], cxr_metadata.train_epochs

    def watched(model: JointModel, *rest: Any) -> Fit:
        learning.append((model.enc["cxr"].training, model.enc["labs"].training))
        return stock(model, *rest)

    monkeypatch.setattr(cxr_metadata, "train_epochs", watched)
    client("isolated").train(sites()["all"], server("isolated").initial(STUDY), {}, 1)
    assert learning == [(True, True), (False, True)]


def test_c3_would_not_hold_for_joint_training() -> None:
    state = server().initial(STUDY)
    updates = [
        client().train(in_turn(sites()["all"], "metadata", v), state, {}, 1).update.tensors
        for v in (0.0, 3.0)
    ]
    name = "enc.cxr.out.weight"
    assert not np.array_equal(updates[0][name], updates[1][name])


def test_eq3_the_loss_of_a_missing_modality_is_left_out() -> None:
    there = torch.tensor([True, False])
    output = Output(
        {},
        {"cxr": ~there, "m": there},
        torch.zeros(2, 1),
        {k: torch.zeros(2, 1) for k in ("cxr", "m")},
    )
    found = joint_loss(output, torch.tensor([1, 0]), task_loss, "cxr", image=2.0, metadata=3.0)
    # Every head says .5: its loss is ln 2. Fused counts once, a film twice, metadata three times.
    expected = torch.log(torch.tensor(2.0)) * torch.tensor([1.0 + 3.0, 1.0 + 2.0])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_training_is_the_same_again_and_another_in_the_next_round(mode: str) -> None:
    hospital, state = sites()["all"], server(mode).initial(STUDY)
    once, again, later = (
        client(mode).train(hospital, state, {}, t).update.tensors for t in (1, 1, 2)
    )
    assert all(np.array_equal(once[n], again[n]) for n in once)
    assert any(not np.array_equal(once[n], later[n]) for n in once)


def test_metadata_have_a_step_size_of_their_own() -> None:
    state, hospital = server().initial(STUDY), sites()["all"]
    whole = replace(
        hospital, splits={s: b.taken(torch.arange(8)) for s, b in hospital.splits.items()}
    )
    update = client(lr=1e-3, metadata_lr=1e-2).train(whole, state, {}, 1).update.tensors
    # One step of Adam moves a weight by its step size, where it has a gradient.
    largest = {n: float(np.abs(update[n]).max()) for n in ("enc.cxr.out.bias", "head.fused.0.bias")}
    assert largest["enc.cxr.out.bias"] == pytest.approx(1e-3, rel=1e-2)
    assert largest["head.fused.0.bias"] == pytest.approx(1e-2, rel=1e-2)
    # Both decay alike: in round 2 of 2 by (1 + cos(pi / 2)) / 2, a half.
    half = client(lr=1e-3, metadata_lr=1e-2, decay_rounds=2).train(whole, state, {}, 2)
    for name, whole_step in largest.items():
        found = float(np.abs(half.update.tensors[name]).max())
        assert found == pytest.approx(whole_step / 2, rel=1e-2)


def test_the_policy_of_miles_may_set_the_encoders_step_sizes_of_joint_training() -> None:
    state, hospital = server().initial(STUDY), sites()["all"]
    plain, idle, slowed = (
        client(**how).train(hospital, state, {}, 1).update.tensors
        for how in (
            {},
            {"balance": "miles", "balance_mu": 1.0},
            {"balance": "miles", "balance_tau": 0.0, "balance_mu": 0.01, "balance_on": "train"},
        )
    )
    assert all(np.array_equal(plain[n], idle[n]) for n in plain)
    # The encoder of the modality that dominates is slowed, here to a hundredth.
    size = {
        m: np.abs(slowed[f"enc.{m}.out.weight"]).max() / np.abs(plain[f"enc.{m}.out.weight"]).max()
        for m in SIZES
    }
    assert sum(ratio < 0.1 for ratio in size.values()) == 1


def test_unknown_labels_of_several_are_trained_around() -> None:
    labels = {"labels": {"pneumonia": {}, "view_ap": {}}}
    study = a_study(SIZES, encoder=TOKEN, task=labels)
    hospitals = {}
    for site, hospital in sites().items():
        for split, batch in hospital.splits.items():
            y = torch.stack([batch.labels, 1 - batch.labels], dim=1).float()
            y[::3, 0] = float("nan")
            y[:, 1] = y[:, 1] if site == "all" else float("nan")
            hospital = with_batch(hospital, split, replace(batch, labels=y))
        hospitals[site] = replace(hospital, study=study)
    for mode in MODES:
        result = run_federation(hospitals, client(mode), server(mode), study, 2)
        assert all(np.isfinite(a).all() for a in result.state.tensors.values())
        view = server(mode).contract(study).names_for(tuple(SIZES))
        found = client(mode).predict(
            hospitals["all"], result.state.restricted(sorted(view)), {}, "test"
        )
        assert found["probability"].shape == (12, 2)
        assert np.isfinite(found["probability"]).all()


def filmed(site: str, held: tuple[str, ...], study: Study) -> Hospital:
    """The hospital of ``a_hospital`` with small films in place of the vector ``cxr``."""
    hospital = a_hospital(site, held, study=STUDY, absent=0.3)
    for split, batch in hospital.splits.items():
        if "cxr" in held:
            film = batch.inputs["cxr"].mean(1)[:, None, None, None].expand(-1, 1, 16, 16).clone()
            inputs = {**batch.inputs, "cxr": film}
            fields = {**batch.fields, "cxr": batch.present["cxr"][:, None].clone()}
            hospital = with_batch(hospital, split, replace(batch, inputs=inputs, fields=fields))
    return replace(hospital, study=study)


@pytest.mark.parametrize("mode", [*MODES, "early"])
def test_films_and_tables_train_in_every_mode_also_where_a_site_lacks_films(mode: str) -> None:
    payload = STUDY.model_dump()
    film = {"kind": "image", "recipe": {"size": [16, 16]}, "encoder": {"widths": [8, 8]}}
    study = parse_study(payload | {"modalities": payload["modalities"] | {"cxr": film}})
    held = {"all": tuple(SIZES), "films": ("cxr",), "tables": ("labs", "metadata")}
    hospitals = {s: filmed(s, m, study) for s, m in held.items()}
    ours, theirs = client(mode, anchor=""), cxr_metadata.Server(mode=mode)
    start, end = theirs.initial(study), run_federation(hospitals, ours, theirs, study, 1).state

    assert any(not np.array_equal(end.tensors[n], a) for n, a in start.tensors.items())
    for patients in hospitals.values():
        names = theirs.contract(study).names_for(patients.modalities)
        found = ours.predict(patients, end.restricted(sorted(names)), {}, "test")
        assert np.isfinite(found["probability"]).all()


def toy(site: str, study: Study, n: int, seed: int) -> Hospital:
    """Pneumonia is the pattern in the young and its absence in the old, so a film alone tells
    nothing."""
    draw = np.random.default_rng(seed)
    splits = {}
    for split, size in (("train", n), ("validation", 8), ("test", n)):
        pattern, old = draw.integers(0, 2, size), draw.integers(0, 2, size)
        film = draw.normal(size=(size, 6)) + 2.0 * (2 * pattern - 1)[:, None]
        age = np.stack([2.0 * old - 1, draw.normal(size=size)], axis=1)
        x = {"cxr": torch.tensor(film).float(), "metadata": torch.tensor(age).float()}
        here = torch.ones(size, dtype=torch.bool)
        fields = {m: torch.ones_like(v, dtype=torch.bool) for m, v in x.items()}
        label = torch.tensor(pattern ^ old)
        splits[split] = Batch(x, fields, dict.fromkeys(x, here), label)
    return Hospital(site, study, ("cxr", "metadata"), splits)


def test_c11_where_age_turns_the_film_around_fusion_beats_films_alone_by_far() -> None:
    study = a_study({"cxr": 6, "metadata": 2}, encoder={"hidden": [16], "dropout": 0.0})
    study = study.model_copy(update={"embedding": 16})
    hospitals = {s: toy(s, study, 200, i) for i, s in enumerate(("a", "b"))}
    found = {}
    for mode in ("joint", "isolated", "image_only"):
        ours = client(mode, epochs=4, lr=3e-3, metadata_lr=1e-2, batch_size=32)
        state: State = run_federation(hospitals, ours, server(mode), study, 4).state
        predicted = ours.predict(hospitals["a"], state, {}, "test")
        found[mode] = auroc(predicted["label"], predicted["probability"][:, 1])
    assert found["joint"] > found["image_only"] + 0.2
    assert found["isolated"] > found["image_only"] + 0.2


@pytest.mark.parametrize(
    ("mode", "idle"),
    [
        ("joint", {"head_lr": 0.1}),
        ("isolated", {"image_weight": 0.5}),
        ("image_only", {"metadata_weight": 0.5}),
        ("early", {"joining": "mean"}),
        ("late", {"joining": "concat"}),
    ],
)
def test_a_setting_that_a_mode_does_not_use_is_refused_and_not_ignored(
    mode: str, idle: dict[str, object]
) -> None:
    client(mode)
    with pytest.raises(StudyError, match=next(iter(idle))):
        client(mode, **idle)
