"""The local loop."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hospital import a_hospital, a_study, with_batch
from polyclinic import training
from polyclinic.algorithms import fedavg
from polyclinic.data.batch import Batch
from polyclinic.errors import TrainingAborted, TrainingDiverged
from polyclinic.models.multimodal import Output
from polyclinic.training import LocalTraining, fused_logits, learning_rate, seed_for

STUDY = a_study()


def trained(hospital: object, **settings: object) -> dict[str, float]:
    client = fedavg.Client(epochs=1, **settings)
    state = fedavg.Server().initial(STUDY)
    return client.train(hospital, state, {}, 1).metrics  # type: ignore[arg-type]


def test_seeds_depend_on_every_part_and_fit_torch() -> None:
    seeds = {seed_for(7, "north", t, p) for t in (1, 2) for p in ("train", "final")}
    assert len(seeds) == 4
    assert all(0 <= s < 2**63 for s in seeds)
    # The first eight bytes of SHA-256 of "a/1", without the sign bit.
    digest = hashlib.sha256(b"a/1").digest()
    assert seed_for("a", 1) == int.from_bytes(digest[:8], "big") % 2**63


def test_the_global_random_state_is_put_back() -> None:
    before = torch.get_rng_state()
    with training.seeded("anything") as generator:
        first = torch.rand(3)
        shuffled = torch.randperm(5, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    with training.seeded("anything") as generator:
        assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.randperm(5, generator=generator), shuffled)


def test_a_request_to_stop_is_heard_before_the_next_step() -> None:
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    hospital = a_hospital(study=STUDY, n=24)
    with training.abort_when(stop), pytest.raises(TrainingAborted):
        fedavg.Client(epochs=9, batch_size=8).train(hospital, fedavg.Server().initial(STUDY), {}, 1)
    assert len(asked) == 3
    assert trained(hospital)["train/loss"] > 0  # outside, nobody asks


def poisoned(rows: int) -> object:
    hospital = a_hospital(study=STUDY, n=24)
    batch = hospital.splits["train"]
    x = batch.inputs["a"].clone()
    x[:rows] = float("inf")
    return with_batch(hospital, "train", replace(batch, inputs=batch.inputs | {"a": x}))


def test_a_patient_without_finite_loss_is_left_out_and_counted() -> None:
    metrics = trained(poisoned(2), batch_size=32)
    assert metrics["quarantined/non_finite"] == 2.0
    assert math.isfinite(metrics["train/loss"])


def test_the_others_train_as_if_that_patient_were_not_there() -> None:
    client, state = fedavg.Client(epochs=1, batch_size=32), fedavg.Server().initial(STUDY)
    dirty = poisoned(2)
    batch = dirty.splits["train"]  # type: ignore[attr-defined]
    clean = with_batch(dirty, "train", batch.taken(torch.arange(24) >= 2))  # type: ignore[arg-type]
    # Without dropout the order of patients in the one batch does not matter.
    kept = replace(client, head_dropout=0.0)
    one = kept.train(dirty, state, {}, 1).update.tensors  # type: ignore[arg-type]
    other = kept.train(clean, state, {}, 1).update.tensors
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, atol=1e-5)


def test_a_batch_in_which_nobody_is_finite_stops_the_run() -> None:
    with pytest.raises(TrainingDiverged, match="none of 24"):
        trained(poisoned(24))


def test_clipping_bounds_the_gradient_of_a_step() -> None:
    hospital = a_hospital(study=STUDY)

    def watched(settings: LocalTraining) -> float:
        model = torch.nn.Linear(1, 1)
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
        start = torch.cat([p.detach().clone().flatten() for p in model.parameters()])

        def loss(batch: Batch) -> torch.Tensor:
            return 1e3 * model(torch.ones(batch.size, 1))[:, 0]

        with training.seeded("clip") as generator:
            training.fit(optimiser, loss, hospital, settings, generator, 1)
        end = torch.cat([p.detach().flatten() for p in model.parameters()])
        return float((end - start).norm())

    seen = [watched(LocalTraining(batch_size=32, clip_norm=c)) for c in (0.0, 0.5)]
    assert seen[0] == pytest.approx(1e3 * 2**0.5, rel=1e-5)
    assert seen[1] == pytest.approx(0.5, rel=1e-4)


def test_a_step_whose_slope_is_not_finite_is_left_out_and_counted() -> None:
    hospital = a_hospital(study=STUDY, n=24)
    slope, hole = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([slope, hole], lr=1.0)
    seen: list[int] = []

    def loss(batch: Batch) -> torch.Tensor:
        seen.append(batch.size)
        # The root of 0 is finite, its slope is not.
        steep = torch.sqrt(hole.abs()) if len(seen) == 2 else 0.0 * hole
        return slope + steep + torch.zeros(batch.size)

    settings = LocalTraining(batch_size=8, clip_norm=9.0)
    with training.seeded("slope") as generator:
        fitted = training.fit(optimiser, loss, hospital, settings, generator, 1)
    assert fitted.skipped == seen[1]
    assert slope.item() == -(len(seen) - 1)
    assert hole.item() == 0.0


def test_the_step_size_falls_along_a_cosine_and_never_to_zero() -> None:
    settings = LocalTraining(lr=0.1, decay_rounds=10)
    assert learning_rate(settings, 1) == 0.1
    assert learning_rate(settings, 6) == pytest.approx(0.05)  # half way: cos(π/2) = 0
    assert learning_rate(settings, 11) == learning_rate(settings, 99) == pytest.approx(0.001)
    assert learning_rate(LocalTraining(lr=0.1), 99) == 0.1


def test_selecting_the_epoch_by_validation_never_keeps_a_worse_one() -> None:
    hospital = a_hospital(study=STUDY)
    # Validation labels turned round: every step makes validation worse, so the start is kept.
    batch = hospital.splits["validation"]
    turned = with_batch(hospital, "validation", replace(batch, labels=1 - batch.labels))
    state = fedavg.Server().initial(STUDY)
    client = fedavg.Client(epochs=10, lr=0.05, select_epoch=True)
    update = client.train(turned, state, {}, 1).update.tensors
    moved = fedavg.Client(epochs=10, lr=0.05).train(turned, state, {}, 1).update.tensors

    def size(tensors: dict[str, np.ndarray]) -> float:
        return float(sum(np.square(a).sum() for a in tensors.values()))

    assert size(update) < 0.1 * size(moved)  # type: ignore[arg-type]


def an_output() -> Output:
    present = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True, False, False])}
    heads = {"a": torch.tensor([[1.0], [1.0], [9.0]]), "b": torch.tensor([[3.0], [9.0], [9.0]])}
    return Output({}, present, torch.tensor([[10.0], [10.0], [10.0]]), heads)


def test_late_fusion_averages_the_heads_of_what_a_patient_has() -> None:
    output = an_output()
    assert fused_logits(output, "fused")[:, 0].tolist() == [10.0, 10.0, 10.0]
    assert fused_logits(output, "unimodal")[:, 0].tolist() == [2.0, 1.0, 10.0]
    assert fused_logits(output, "both")[:, 0].tolist() == [6.0, 5.5, 10.0]


def test_predictions_of_an_empty_split_are_empty() -> None:
    hospital = a_hospital(study=STUDY)
    nobody = with_batch(hospital, "test", hospital.splits["test"].taken(torch.zeros(12).bool()))
    found = fedavg.Client().predict(nobody, fedavg.Server().initial(STUDY), {}, "test")
    assert found["probability"].shape == (0, 2)
    assert found["label"].shape == (0,)


def test_batches_keep_their_parts_together() -> None:
    batch = a_hospital(study=STUDY).splits["train"]
    part: Batch = batch.taken(batch.labels == 1)
    assert part.size == 12
    assert part.inputs["a"].shape[0] == part.present["b"].shape[0] == 12
