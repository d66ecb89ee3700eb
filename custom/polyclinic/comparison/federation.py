"""A federation in one process: the reference that the FLARE run of the same job equals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from polyclinic.algorithms.base import Client, Server
from polyclinic.data.batch import Patients
from polyclinic.exchange import State, Tensors
from polyclinic.study import Study

Metrics = dict[str, float]
OnRound = Callable[[int, State, Mapping[str, Metrics]], None]


@dataclass(frozen=True)
class FederationResult:
    """What a federation leaves behind.

    Attributes:
        state: after the last round.
        personal: personal tensors by site, after ``finalise``.
        metrics: by round, then by site; the last entry is that of ``finalise``.
    """

    state: State
    personal: dict[str, Tensors]
    metrics: list[dict[str, Metrics]] = field(default_factory=list)


def run_federation(
    sites: Mapping[str, Patients],
    client: Client,
    server: Server,
    study: Study,
    rounds: int,
    *,
    on_round: OnRound | None = None,
) -> FederationResult:
    """Train ``rounds`` rounds with every site, then finalise.

    A site gets and sends exactly what it would through FLARE: the names of the contract for the
    modalities it holds.
    """
    contract = server.contract(study)
    state = server.initial(study)
    personal: dict[str, Tensors] = {site: {} for site in sites}
    history: list[dict[str, Metrics]] = []
    views = {s: contract.names_for(p.modalities) for s, p in sites.items()}
    for t in range(1, rounds + 1):
        server.begin(study, state, t)
        heard: dict[str, Metrics] = {}
        for site, patients in sites.items():
            slice_ = state.restricted(sorted(views[site]))
            trained = client.train(patients, slice_, personal[site], t)
            personal[site], heard[site] = trained.personal, trained.metrics
            server.accept(site, trained.update)
        state = server.finish()
        history.append(heard)
        if on_round is not None:
            on_round(t, state, heard)
    last: dict[str, Metrics] = {}
    for site, patients in sites.items():
        slice_ = state.restricted(sorted(views[site]))
        done = client.finalise(patients, slice_, personal[site])
        personal[site], last[site] = done.personal, done.metrics
    return FederationResult(state, personal, [*history, last])
