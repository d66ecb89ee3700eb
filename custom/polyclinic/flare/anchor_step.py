"""The step that ends a round: the folded state is trained once more where every modality is.

A site does it as an ordinary client task (``SiteTrainer``), or the server's own training process
(``polyclinic.flare.own_data``), before the state is broadcast; and once before the first round.

Guarantees:
    * a step that is refused, fails, is late, or whose site is gone, leaves the folded state as it
      is; the ledger then says ``kept_last`` with the reason;
    * the round is closed with the state after its step, so a resume repeats no half of it;
    * a run whose algorithm wants the step does not begin without anybody who could do it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from polyclinic.algorithms.base import AnchorServer
from polyclinic.anchor_site import elected
from polyclinic.errors import StudyError
from polyclinic.exchange import Contract, State, Update
from polyclinic.flare.census import Announcement
from polyclinic.flare.convert import read_reply
from polyclinic.flare.guard import UpdateGuard
from polyclinic.flare.tally import Take, Tally, by_group
from polyclinic.ledger import Record
from polyclinic.storage import require_contract
from polyclinic.study import Study

ABSORBED, KEPT_LAST = "absorbed", "kept_last"
NOBODY, BELOW_QUORUM = "no_anchor_site", "below_quorum"
Ask = Callable[[str, State, Take], Tally]


class Trainer(Protocol):
    """Who does the step."""

    @property
    def site(self) -> str:
        """Its name in the ledger."""
        ...

    def require(self) -> None:
        """Raise a ``PolyclinicError`` when it never could."""
        ...

    def train(self, state: State) -> tuple[Update | None, Record]:
        """An update that has passed the guard, or None; and what the ledger says, with a reason
        where there is none."""
        ...


@dataclass(frozen=True)
class SiteTrainer:
    """The anchor site, asked as in a round of training.

    Attributes:
        said: its census.
        ask: asks one site about a state and hands its good answer on.
    """

    site: str
    said: Announcement
    guard: UpdateGuard
    ask: Ask

    def require(self) -> None:
        """See ``Trainer``: its census was looked at when it was elected."""

    def train(self, state: State) -> tuple[Update | None, Record]:
        """See ``Trainer``."""
        found: dict[str, Update] = {}
        metrics: dict[str, dict[str, float]] = {}
        held, counts = self.said.modalities, self.said.counts

        def take(site: str, answer: object) -> None:
            reply = read_reply(answer)
            found[site] = self.guard.check_anchor(reply, held, counts, state.round)
            metrics[site] = self.guard.check_metrics(reply)

        tally = self.ask(self.site, state, take)
        cut = state.restricted(sorted(self.guard.contract.names_for(held, "state")))
        told: Record = {"bytes_out": {self.site: by_group(cut.tensors)}, "metrics": metrics}
        update = found.get(self.site)
        if update is None:
            return None, {**told, "reason": _reason(tally, self.site)}
        return update, {**told, "bytes_in": {self.site: by_group(update.tensors)}}


class AnchorStep:
    """The step of one run.

    Args:
        server: the algorithm's server half.
        contract: of that server and the study.
        pinned: the only site that may do the step; "" leaves it to who offers.
        trainer: who does it when it is no site.
    """

    def __init__(
        self,
        server: AnchorServer,
        contract: Contract,
        pinned: str = "",
        trainer: Trainer | None = None,
    ) -> None:
        self._server, self._contract = server, contract.only("state")
        self._pinned, self._trainer = pinned, trainer
        self.site = ""

    @property
    def name(self) -> str:
        """Of whoever does the step; "" where nobody does."""
        return self._trainer.site if self._trainer is not None else ""

    def elect(
        self, announced: Mapping[str, Announcement], study: Study, guard: UpdateGuard, ask: Ask
    ) -> None:
        """Choose the site that does the step, by the census; it trains in no round."""
        if self._trainer is not None:
            return
        offers = {site: said.modalities for site, said in announced.items() if said.anchor}
        self.site = elected(offers, study.modalities, self._pinned)
        if self.site:
            self._trainer = SiteTrainer(self.site, announced[self.site], guard, ask)

    def require(self) -> None:
        """Pass where somebody can do the step.

        Raises:
            PolyclinicError: nobody can.
        """
        if self._trainer is None:
            who = f"'{self._pinned}', which local/anchor.yaml names," if self._pinned else "a site"
            raise StudyError(
                expected=f"{who} that holds every modality and offers to be the anchor site",
                got="none in the census",
                remedy="set 'anchor: true' for this cohort in that site's polyclinic.yaml",
            )
        self._trainer.require()

    def after(self, state: State) -> tuple[State, Record]:
        """The state with the step, or as it was; and what the ledger says of it.

        Raises:
            CheckpointError: the algorithm made a state that is not what its contract names.
        """
        if self._trainer is None:
            return state, kept_last(NOBODY)
        start = time.monotonic()
        update, told = self._trainer.train(state)
        record = {"site": self.name, "seconds": round(time.monotonic() - start, 4), **told}
        if update is None:
            return state, {"status": KEPT_LAST, **record}
        tensors = self._server.absorb(state, update).tensors
        require_contract(tensors, self._contract.specs, owner="researcher")
        return State(tensors, state.round), {"status": ABSORBED, **record}


def kept_last(reason: str) -> Record:
    """What the ledger says where nobody was asked."""
    return {"status": KEPT_LAST, "reason": reason}


def _reason(tally: Tally, site: str) -> str:
    """Why a site's answer did not count."""
    outcome = tally.outcome
    silent = {"late": outcome.late, "absent": outcome.absent, "lost": outcome.lost}
    gone = next((word for word, sites in silent.items() if site in sites), "unheard")
    return tally.refused.get(site) or tally.failed.get(site) or gone
