"""Multi-FedAvg."""

import numpy as np
import torch

from hospital import a_hospital, a_study
from polyclinic.algorithms import multi_fedavg
from polyclinic.comparison import run_federation

STUDY = a_study()


def test_every_site_exchanges_every_parameter() -> None:
    server = multi_fedavg.Server()
    contract = server.contract(STUDY)
    assert contract.names_for(()) == set(server.initial(STUDY).tensors)

    lonely = a_hospital("h1", ("a",), study=STUDY)
    trained = multi_fedavg.Client(epochs=1).train(lonely, server.initial(STUDY), {}, 1)
    assert set(trained.update.tensors) == set(contract.specs)
    assert trained.personal == {}


def test_zero_fill_means_zero_inputs_so_an_absent_encoder_moves_by_its_biases() -> None:
    lonely = a_hospital("h1", ("a",), study=STUDY)
    state = multi_fedavg.Server().initial(STUDY)
    update = multi_fedavg.Client(epochs=1).train(lonely, state, {}, 1).update.tensors

    # The input is zero, hence the first layer's weights get no gradient, and its biases do.
    assert not update["enc.b.hidden.0.weight"].any()
    assert update["enc.b.hidden.0.bias"].any()


def test_filled_modalities_are_zero_and_marked_absent() -> None:
    batch = multi_fedavg.zero_filled(a_hospital("h", ("a",), study=STUDY).splits["test"], STUDY)
    assert batch.inputs["b"].shape == (batch.size, 4)
    assert not batch.inputs["b"].any()
    assert not batch.fields["b"].any()
    assert not batch.present["b"].any()


def test_sites_weigh_by_all_their_training_patients() -> None:
    server = multi_fedavg.Server()
    state = server.initial(STUDY)
    client = multi_fedavg.Client(epochs=1)
    sites = {
        "h1": a_hospital("h1", ("a",), study=STUDY, n=30),
        "h2": a_hospital("h2", ("b",), study=STUDY, n=10),
    }
    result = run_federation(sites, client, server, STUDY, 1)
    deltas = {s: client.train(p, state, {}, 1).update.tensors for s, p in sites.items()}
    for name, old in state.tensors.items():
        expected = old + 0.75 * deltas["h1"][name] + 0.25 * deltas["h2"][name]
        np.testing.assert_allclose(result.state.tensors[name], expected, atol=1e-6)


def test_a_prediction_needs_only_what_the_site_holds() -> None:
    lonely = a_hospital("h1", ("a",), study=STUDY)
    state = multi_fedavg.Server().initial(STUDY)
    found = multi_fedavg.Client().predict(lonely, state, {}, "test")
    assert found["probability"].shape == (12, 2)
    assert torch.isfinite(torch.tensor(found["probability"])).all()
