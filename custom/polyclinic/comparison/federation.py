"""A federation in one process: the reference that the FLARE run of the same job equals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from polyclinic.algorithms.base import AnchorClient, Client, Server, wants_anchor
from polyclinic.data.batch import Patients
from polyclinic.errors import StudyError
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
    anchor: str = "",
    on_round: OnRound | None = None,
) -> FederationResult:
    """Train ``rounds`` rounds with every site, then finalise.

    A site gets and sends exactly what it would through FLARE: the names of the contract for the
    modalities it holds.

    Args:
        anchor: site that does the server's step, where the server half wants one, and then no
            other training; else a site like others.

    Raises:
        StudyError: the server half wants an anchor site and there is none.
    """
    contract = server.contract(study)
    personal: dict[str, Tensors] = {site: {} for site in sites}
    history: list[dict[str, Metrics]] = []
    views = {s: contract.names_for(p.modalities, "state") for s, p in sites.items()}
    step = _anchor_step(sites, client, server, anchor, views, personal)
    state = step(server.initial(study), 0)
    trains = {s: p for s, p in sites.items() if not (wants_anchor(server) and s == anchor)}
    for t in range(1, rounds + 1):
        server.begin(study, state, t)
        heard: dict[str, Metrics] = {}
        for site, patients in trains.items():
            slice_ = state.restricted(sorted(views[site]))
            trained = client.train(patients, slice_, personal[site], t)
            personal[site], heard[site] = trained.personal, trained.metrics
            server.accept(site, trained.update)
        state = step(server.finish(), t)
        history.append(heard)
        if on_round is not None:
            on_round(t, state, heard)
    last: dict[str, Metrics] = {}
    for site, patients in sites.items():
        slice_ = state.restricted(sorted(views[site]))
        done = client.finalise(patients, slice_, personal[site])
        personal[site], last[site] = done.personal, done.metrics
    return FederationResult(state, personal, [*history, last])


def _anchor_step(
    sites: Mapping[str, Patients],
    client: Client,
    server: Server,
    anchor: str,
    views: Mapping[str, frozenset[str]],
    personal: dict[str, Tensors],
) -> Callable[[State, int], State]:
    """The step at the anchor site after round ``t``; without one the state stays as it is."""
    if not wants_anchor(server):
        return lambda state, t: state
    if anchor not in sites or not isinstance(client, AnchorClient):
        raise StudyError(
            expected="a site with 'anchor: true' in its polyclinic.yaml and every modality",
            got="none",
            remedy="let one offer itself, or choose an algorithm without anchors",
        )

    def step(state: State, t: int) -> State:
        slice_ = state.restricted(sorted(views[anchor]))
        trained = client.anchor(sites[anchor], slice_, personal[anchor], t)
        personal[anchor] = trained.personal
        return server.absorb(state, trained.update)

    return step
