"""Local training."""

import numpy as np
import pytest

from hospital import a_hospital, a_study
from polyclinic.algorithms import local
from polyclinic.comparison import run_federation
from polyclinic.errors import StudyError
from polyclinic.exchange import State

STUDY = a_study()


def test_nothing_crosses_the_wall() -> None:
    hospital = a_hospital(study=STUDY)
    client, server = local.Client(epochs=1), local.Server()
    trained = client.train(hospital, server.initial(STUDY), {}, 1)

    assert server.contract(STUDY).specs == {}
    assert trained.update.tensors == {}
    assert all(n.startswith("personal.") for n in trained.personal)


def test_a_sites_model_does_not_depend_on_other_sites() -> None:
    h1, h2 = a_hospital("h1", study=STUDY, seed=1), a_hospital("h2", study=STUDY, seed=2)
    client = local.Client(epochs=1)
    alone = run_federation({"h1": h1}, client, local.Server(), STUDY, 2)
    together = run_federation({"h1": h1, "h2": h2}, client, local.Server(), STUDY, 2)

    for name, value in alone.personal["h1"].items():
        np.testing.assert_array_equal(together.personal["h1"][name], value)


def test_training_goes_on_where_the_last_round_ended() -> None:
    hospital, client = a_hospital(study=STUDY), local.Client(epochs=1)
    state = local.Server().initial(STUDY)
    first = client.train(hospital, state, {}, 1)
    second = client.train(hospital, state, first.personal, 2)

    steps = [float(t.personal["personal.adam.enc.a.out.bias.step"]) for t in (first, second)]
    assert steps == [1.0, 2.0]  # 24 patients, one batch of 32, one epoch a round
    assert second.metrics["train/loss"] < first.metrics["train/loss"]


def test_it_learns_an_easy_task() -> None:
    hospital = a_hospital(study=STUDY, n=64, signal=3.0)
    client, server = local.Client(epochs=5, lr=0.01), local.Server()
    result = run_federation({"h": hospital}, client, server, STUDY, 4)
    found = client.predict(hospital, result.state, result.personal["h"], "test")
    chosen = found["probability"].argmax(1)
    assert (chosen == found["label"]).mean() > 0.9


def test_a_model_that_never_leaves_is_no_larger_than_a_site_should_bear() -> None:
    # Nothing of it is in the contract: 65536 * 5120 weights of a personal head.
    study = a_study(embedding=2560)
    patients = a_hospital(study=study)
    with pytest.raises(StudyError, match="at most 256 million weights"):
        local.Client(head_hidden=65536).train(patients, State({}), {}, 1)
