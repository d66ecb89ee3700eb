"""A federation in one process."""

import numpy as np

from hospital import a_hospital, a_study
from polyclinic.algorithms import fedmm
from polyclinic.comparison import run_federation
from polyclinic.data.batch import Patients
from polyclinic.exchange import State, Tensors

STUDY = a_study()


class Listening(fedmm.Client):
    """Remembers which names a site was sent."""

    heard: dict[str, set[str]] = {}  # noqa: RUF012

    def train(self, patients: Patients, state: State, personal: Tensors, t: int):  # type: ignore[no-untyped-def]
        self.heard[patients.site] = set(state.tensors)
        return super().train(patients, state, personal, t)


def test_a_site_hears_only_what_it_holds() -> None:
    sites = {s: a_hospital(s, m, study=STUDY) for s, m in (("h1", ("a",)), ("h2", ("a", "b")))}
    run_federation(sites, Listening(epochs=0), fedmm.Server(), STUDY, 1)

    assert {n.split(".")[1] for n in Listening.heard["h1"] if n.startswith("enc.")} == {"a"}
    assert {n for n in Listening.heard["h1"] if n.startswith("store.")} == {
        "store.proto.a",
        "store.count.a",
    }
    assert {n.split(".")[1] for n in Listening.heard["h2"] if n.startswith("enc.")} == {"a", "b"}


def test_every_round_is_told_with_its_state_and_metrics() -> None:
    sites, seen = {"h1": a_hospital("h1", study=STUDY)}, []
    result = run_federation(
        sites,
        fedmm.Client(epochs=1),
        fedmm.Server(),
        STUDY,
        2,
        on_round=lambda t, state, heard: seen.append((t, state.round, sorted(heard))),
    )
    assert seen == [(1, 1, ["h1"]), (2, 2, ["h1"])]
    assert result.state.round == 2
    assert len(result.metrics) == 3  # two rounds and finalise


def test_no_rounds_leave_the_initial_state() -> None:
    sites = {"h1": a_hospital("h1", study=STUDY)}
    result = run_federation(sites, fedmm.Client(), fedmm.Server(), STUDY, 0)
    start = fedmm.Server().initial(STUDY)
    assert all(np.array_equal(result.state.tensors[n], a) for n, a in start.tensors.items())


def test_a_federation_is_repeated_bit_for_bit() -> None:
    sites = {s: a_hospital(s, study=STUDY, seed=i) for i, s in enumerate(("h1", "h2"))}
    first, second = (
        run_federation(sites, fedmm.Client(epochs=1), fedmm.Server(), STUDY, 2) for _ in range(2)
    )
    assert all(np.array_equal(second.state.tensors[n], a) for n, a in first.state.tensors.items())
    for site in sites:
        for name, value in first.personal[site].items():
            np.testing.assert_array_equal(second.personal[site][name], value)
