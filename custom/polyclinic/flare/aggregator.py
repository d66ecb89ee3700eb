"""Hosts the server half of an algorithm for one round at a time: guard first, then fold.

Names of contributors are those of FLARE's authenticated client tasks; nothing in a payload can
change them. An update is folded as it comes, so memory does not grow with the number of sites.
"""

from collections.abc import Mapping

from polyclinic.algorithms.base import Server
from polyclinic.exchange import Contract, State, Update
from polyclinic.flare.census import Announcement
from polyclinic.flare.convert import Reply
from polyclinic.flare.guard import Refused, UpdateGuard
from polyclinic.flare.shares import ceiling
from polyclinic.flare.tally import by_group
from polyclinic.storage import require_contract
from polyclinic.study import Study


class UpdateAggregator:
    """One fold.

    Args:
        server: the algorithm's server half.
        study: what it was built for.
        contract: of that server and study.
        most_share: largest part of the patients of a mean that one site may weigh, of those that
            the census announced; 1 leaves every weight as it came.
    """

    def __init__(
        self, server: Server, study: Study, contract: Contract, most_share: float = 1.0
    ) -> None:
        self._server, self._study, self._contract = server, study, contract
        self._most_share = most_share
        self.guard = UpdateGuard(contract)
        self._state = State({})
        self._census: Mapping[str, Announcement] = {}
        self._ceilings: dict[str, float] = {}
        self._t = 0
        self._heard: dict[str, dict[str, int]] = {}

    def open(self, state: State, t: int, census: Mapping[str, Announcement]) -> None:
        """Begin round ``t`` on the state that the sites were sent."""
        self._state, self._t, self._census, self._heard = state, t, census, {}
        names = {name for said in census.values() for name in said.counts}
        self._ceilings = {
            name: ceiling(
                {s: said.counts.get(name, 0.0) for s, said in census.items()}, self._most_share
            )
            for name in sorted(names)
        }
        self._server.begin(self._study, state, t)

    def accept(self, site: str, reply: Reply) -> dict[str, float]:
        """Add one site's reply to the fold; returns its metrics.

        Raises:
            Refused: the guard turned it away, or the site was heard already; nothing was added.
        """
        if site in self._heard:
            raise Refused("duplicate", expected="one answer a round", got="a second one")
        if site not in self._census:
            raise Refused("census", expected="a site that answered the census", got="another")
        said = self._census[site]
        update = self.guard.check(reply, said.modalities, said.counts, self._t)
        metrics = self.guard.check_metrics(reply)
        weights = {n: min(v, self._ceilings.get(n, v)) for n, v in update.scalars.items()}
        self._server.accept(site, Update(update.tensors, weights))
        self._heard[site] = by_group(update.tensors)
        return metrics

    @property
    def heard(self) -> dict[str, dict[str, int]]:
        """Sites whose update counts, with its bytes by group."""
        return dict(self._heard)

    def close(self, quorum: int) -> State | None:
        """The new state, or None below the quorum (the caller then keeps the old one as it is).

        Raises:
            CheckpointError: the algorithm made a state that is not what its contract names.
        """
        if len(self._heard) < max(quorum, 1):
            return None
        tensors = self._server.finish().tensors
        require_contract(tensors, self._contract.only("state").specs, owner="researcher")
        return State(tensors, self._t)
