"""Several labels of which any may be unknown, several records of a patient: in every algorithm."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hospital import Hospital, a_hospital, a_study, not_knowing
from polyclinic.algorithms import fedavg, fedmm, local, multi_fedavg
from polyclinic.algorithms.balance import modality_scores
from polyclinic.algorithms.heads import HeadTraining, heads_loss, task_losses, training_output
from polyclinic.algorithms.prototypes import COUNT, PROTO, prototype_update, site_statistics
from polyclinic.algorithms.site import told_scores, validation_scores
from polyclinic.algorithms.wire import announced
from polyclinic.comparison import run_federation
from polyclinic.errors import StudyError
from polyclinic.models.multimodal import HeadSettings, SiteModel
from polyclinic.training import fit, predict, seeded

NAMES = ("pneumonia", "view_ap")
STUDY = a_study(task={"labels": {n: {} for n in NAMES}})
PNEUMONIA, VIEW = 0, 1
HEADS = HeadSettings(slots=("a", "b"), hidden=0, unimodal=True)


def north() -> Hospital:
    """Knows both labels of 48 patients; each combination of them is there as often."""
    return a_hospital(study=STUDY, n=48)


def south() -> Hospital:
    """Knows the view alone."""
    return not_knowing(a_hospital("south", study=STUDY, n=48, seed=1), PNEUMONIA)


def of_films(hospital: Hospital, each: int) -> Hospital:
    """The same rows as films, so many of each patient."""
    owners = {s: torch.arange(b.size) // each for s, b in hospital.splits.items()}
    return replace(hospital, owners=owners)


def rows_of_heads(model: SiteModel, label: int) -> list[torch.Tensor]:
    """Gradients of what answers a label in each head."""
    layers = [model.head["a"], model.head["b"], model.head["fused"][0]]
    return [g[label] for layer in layers for g in (layer.weight.grad, layer.bias.grad)]


def test_an_unlabelled_label_gets_no_gradient_in_any_head_and_the_others_do() -> None:
    patients = south()
    torch.manual_seed(0)
    model = SiteModel(STUDY, ("a", "b"), HEADS)
    losses = task_losses(patients, local.Client(class_balance=True))
    batch = patients.splits["train"]
    output = training_output(model, batch, 0.0)
    heads_loss(output, batch.labels, losses, HeadTraining()).mean().backward()
    assert all(not g.any() for g in rows_of_heads(model, PNEUMONIA))
    assert all(bool(g.any()) for g in rows_of_heads(model, VIEW))


def test_a_site_that_knows_nothing_of_a_label_sends_its_row_unchanged() -> None:
    client, server = fedavg.Client(head="federated"), fedavg.Server(head="federated")
    state = server.initial(STUDY)
    update = client.train(south(), state, {}, 1).update.tensors
    last = [n for n in update if n.startswith("head.fused") and update[n].shape[0] == 2]
    assert last
    for name in last:
        assert not update[name][PNEUMONIA].any()
        assert update[name][VIEW].any()


def test_in_the_mean_such_a_row_moves_by_the_share_of_patients_at_sites_that_know_it() -> None:
    client, server = fedavg.Client(head="federated"), fedavg.Server(head="federated")
    state = server.initial(STUDY)
    server.begin(STUDY, state, 1)
    updates = {p.site: client.train(p, state, {}, 1).update for p in (north(), south())}
    for site, update in updates.items():
        server.accept(site, update)
    after = server.finish()
    name = "head.fused.3.bias"
    # 48 patients each: half of the step of the one site that knows.
    expected = 0.5 * updates["north"].tensors[name][PNEUMONIA]
    moved = after.tensors[name][PNEUMONIA] - state.tensors[name][PNEUMONIA]
    assert moved == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (local.Client(epochs=8, lr=0.01), local.Server()),
        (fedavg.Client(epochs=8, lr=0.01), fedavg.Server()),
        (fedavg.Client(epochs=8, lr=0.01, unimodal_heads=True), fedavg.Server(unimodal_heads=True)),
        (multi_fedavg.Client(epochs=8, lr=0.01), multi_fedavg.Server()),
    ],
    ids=["local", "fedavg", "unimodal", "multi_fedavg"],
)
def test_both_labels_are_learnt_where_they_are_known(client: object, server: object) -> None:
    sites = {p.site: p for p in (north(), south())}
    result = run_federation(sites, client, server, STUDY, 2)
    for site, patients in sites.items():
        found = client.predict(patients, result.state, result.personal[site], "test")
        assert found["probability"].shape == found["label"].shape == (24, 2)
        scored = told_scores(found, patients, "test")
        known = {"north": {"pneumonia", "view_ap"}, "south": {"view_ap"}}[site]
        assert {k.removeprefix("auroc/") for k in scored if k.startswith("auroc/")} == known
    last = result.metrics[-2]
    # The features differ by the first label, which is pneumonia.
    assert last["north"]["validation/auroc/pneumonia"] > 0.8
    assert np.isfinite(last["south"]["train/loss"])


def test_a_row_that_is_not_finite_is_skipped_and_the_unknown_is_not_taken_for_it() -> None:
    patients = south()
    batch = patients.splits["train"]
    batch.inputs["a"][3] = torch.nan
    model = SiteModel(STUDY, ("a", "b"), HEADS)
    losses = task_losses(patients, local.Client())

    def batch_loss(part):
        return heads_loss(training_output(model, part, 0.0), part.labels, losses, HeadTraining())

    with seeded("fit") as generator:
        optimiser = torch.optim.AdamW(model.parameters())
        fitted = fit(optimiser, batch_loss, patients, local.Client(), generator, 1)
    assert fitted.skipped == 1
    assert np.isfinite(fitted.loss)


def test_a_split_of_nobody_predicts_nothing_of_every_label() -> None:
    empty = north().splits["test"].taken(torch.zeros(24).bool())
    patients = replace(north(), splits={**north().splits, "test": empty})
    found, _ = predict(lambda b: torch.zeros(b.size, 2), patients, "test")
    assert found["probability"].shape == (0, 2)
    assert told_scores(found, patients, "test") == {}


def test_a_label_of_which_a_side_is_smaller_than_a_cell_is_not_scored() -> None:
    patients = replace(north(), minimum_cell=11)
    labels = patients.splits["validation"].labels  # 24 patients, 12 of each side of each label
    labels[[0, 2], VIEW] = torch.nan  # one yes and one no less: 11 of each
    found = {"probability": np.full((24, 2), 0.5), "label": labels.numpy()}
    assert "validation/auroc/view_ap" in validation_scores(found, patients)
    labels[[1, 3], VIEW] = torch.nan
    told = validation_scores(found, patients)
    assert "validation/auroc/pneumonia" in told
    assert not any(k.endswith("view_ap") for k in told)
    assert told["validation/auroc"] == told["validation/auroc/pneumonia"]


def test_fedmm_refuses_a_study_without_classes_before_anything_runs() -> None:
    with pytest.raises(StudyError, match="prototype"):
        fedmm.Server().initial(STUDY)
    with pytest.raises(StudyError, match="prototype"):
        fedmm.Client().contract(STUDY)


def test_modalities_are_scored_by_the_mean_over_labels() -> None:
    model = SiteModel(STUDY, ("a", "b"), HEADS)
    joint, without = modality_scores(model, north(), "validation")
    assert 0.0 <= joint <= 1.0
    assert set(without) == {"a", "b"}


CLASSES = a_study()


def test_three_patients_of_ten_films_release_no_prototype_no_score_and_no_count() -> None:
    films = of_films(a_hospital(study=CLASSES, n=30, minimum_cell=11), 10)
    assert (films.size("train"), films.distinct("train")) == (30, 3)
    assert announced(films) == {"n": 11.0, "n.a": 11.0, "n.b": 11.0}

    client = fedmm.Client(epochs=1)
    trained = client.train(films, fedmm.Server().initial(CLASSES), {}, 1)
    for name, value in trained.update.tensors.items():
        if name.startswith((PROTO, COUNT)):
            assert not value.any()
    assert not any(k.startswith(("validation/", "proto", "embedding")) for k in trained.metrics)


def test_thirty_patients_of_one_film_each_do() -> None:
    single = of_films(a_hospital(study=CLASSES, n=30, minimum_cell=7), 1)
    trained = fedmm.Client(epochs=1).train(single, fedmm.Server().initial(CLASSES), {}, 1)
    assert trained.update.tensors[COUNT + "a"].tolist() == [1.0, 1.0]
    assert "validation/auroc" in trained.metrics
    assert announced(single)["n"] == 30.0


@pytest.mark.parametrize("weight", ["uniform", "count"])
def test_a_class_votes_and_weighs_by_its_patients_not_by_its_films(weight: str) -> None:
    whole = a_hospital(study=CLASSES, n=40, minimum_cell=11)
    # Films of class 0 (the even ones) are of 20 patients, those of class 1 of five.
    owners = torch.where(torch.arange(40) % 2 == 0, torch.arange(40), 100 + torch.arange(40) // 8)
    films = replace(whole, owners={"train": owners})
    assert films.people("train").tolist() == [20, 5]
    model = SiteModel(CLASSES, ("a", "b"), HEADS)
    sent = prototype_update(site_statistics(model, films, "eval", 1), films, weight)
    assert sent[COUNT + "a"].tolist() == [20.0 if weight == "count" else 1.0, 0.0]
    assert sent[PROTO + "a"][0].any()
    assert not sent[PROTO + "a"][1].any()


def test_enough_patients_are_announced_with_all_their_films() -> None:
    films = of_films(a_hospital(study=CLASSES, n=40, minimum_cell=11), 2)
    assert announced(films) == {"n": 40.0, "n.a": 40.0, "n.b": 40.0}
