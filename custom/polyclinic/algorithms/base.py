"""The two halves of an algorithm: plain objects that know nothing of FLARE.

A ``Client`` is stateless: everything a site must remember between rounds is in the ``personal``
tensors it returns, so it survives a restart of the process. A ``Server`` is a streaming fold over
the updates of one round and holds at most running sums.
"""

from dataclasses import dataclass, field
from typing import Protocol, TypeGuard, runtime_checkable

from polyclinic.data.batch import Patients, SplitName
from polyclinic.exchange import Contract, State, Tensors, Update
from polyclinic.study import Study


@dataclass(frozen=True)
class Trained:
    """What local training gives: what leaves, what stays, and what may be told.

    Attributes:
        update: leaves the site (after the site's filters).
        personal: stays; named tensors, kept on the site's disk and handed back next time.
        metrics: finite scalars under names of ``polyclinic.evaluation.metrics.METRIC_NAME``.
    """

    update: Update
    personal: Tensors
    metrics: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Client(Protocol):
    """The half that runs in a hospital."""

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall, as the site itself derives it from the job."""
        ...

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """One round of local training; ``t`` counts from 1."""
        ...

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """After the last round: fit what stays local on the final state; the update is empty."""
        ...

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """``probability`` (n, C) and ``label`` (n,) of a split, in its order; stays at the site."""
        ...


@runtime_checkable
class Server(Protocol):
    """The half that runs at the coordinator."""

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        ...

    def initial(self, study: Study) -> State:
        """Round 0: the same start for every site, drawn from the study's seed."""
        ...

    def begin(self, study: Study, state: State, t: int) -> None:
        """Open round ``t`` on the state that was broadcast."""
        ...

    def accept(self, site: str, update: Update) -> None:
        """Add one site's update; it has passed the guard. Each site at most once a round."""
        ...

    def finish(self) -> State:
        """Close the round. With no update accepted: the old tensors, bit for bit."""
        ...


@runtime_checkable
class AnchorClient(Protocol):
    """A client half that can also do the server's training step, at a site with every modality."""

    def anchor(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """Train on the state that round ``t`` was folded into, before it is broadcast; 0 precedes
        the first round. The update is of the contract's way ``anchor``."""
        ...


@runtime_checkable
class AnchorServer(Protocol):
    """A server half whose rounds end with a step at an anchor site.

    Where no anchor site answers, the folded state is broadcast as it is: what only the anchor
    site can renew keeps its last values.
    """

    @property
    def wants_anchor(self) -> bool:
        """Whether its settings ask for that step."""
        ...

    def absorb(self, state: State, update: Update) -> State:
        """The state with the anchor site's step; it has passed the guard. Same round."""
        ...


def wants_anchor(server: Server) -> TypeGuard[AnchorServer]:
    """Whether the rounds of a server half end with a step at an anchor site."""
    return isinstance(server, AnchorServer) and server.wants_anchor
