"""One run of a study on the server: census, training rounds, finalise, evaluate.

Guarantees:
    * a round closes when every site that is still alive has answered, or at its deadline;
    * below the quorum of good updates the state stays as it was, bit for bit, and after two such
      rounds in a row the run ends as ``failed_quorum``;
    * an answer that comes after the close has no influence, and its site is in the ledger as late;
    * every site that did not count is named in the ledger, with the reason;
    * an anchor site (``polyclinic.flare.anchor_step``) trains between rounds and in none, and is
      no part of the quorum.
"""

import time
from collections.abc import Iterable

from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from polyclinic.errors import QuorumLost
from polyclinic.exchange import Contract, State
from polyclinic.flare.aggregator import UpdateAggregator
from polyclinic.flare.anchor_step import ABSORBED, BELOW_QUORUM, AnchorStep, kept_last
from polyclinic.flare.asking import Aborted, Asking
from polyclinic.flare.bulletin import Bulletin
from polyclinic.flare.census import Announcement, read_census
from polyclinic.flare.convert import ANCHOR, CENSUS, TRAIN, read_reply
from polyclinic.flare.gathering import Attendance
from polyclinic.flare.guard import Refused
from polyclinic.flare.runbook import RunBook
from polyclinic.flare.slice import SliceForSite
from polyclinic.flare.tally import Take, Tally
from polyclinic.flare.terms import Terms
from polyclinic.ledger import Record
from polyclinic.study import Study

ROUNDS_WITHOUT_QUORUM = 2


class StudyRun:
    """The run.

    Args:
        controller: FLARE's controller, on whose behalf sites are asked.
        terms: of the job.
        study: of the job.
        contract: of the algorithm for this study.
        aggregator: hosts the algorithm's server half.
        book: open, and holding the state that the run starts from.
        state: that state.
        anchor: the step between rounds, where the algorithm wants one.
    """

    def __init__(
        self,
        controller: Controller,
        terms: Terms,
        study: Study,
        contract: Contract,
        aggregator: UpdateAggregator,
        book: RunBook,
        state: State,
        anchor: AnchorStep | None = None,
    ) -> None:
        self._controller, self._terms, self._study = controller, terms, study
        self._contract, self._aggregator, self._book = contract, aggregator, book
        self.state, self._anchor = state, anchor
        self.attendance = Attendance()
        self.bulletin = Bulletin(controller)
        self._sites: tuple[str, ...] = ()
        self._announced: dict[str, Announcement] = {}

    @property
    def depleted(self) -> bool:
        """True when fewer sites are alive than a round needs."""
        alive = set(self._training or self._sites) - self.attendance.lost
        return bool(self._sites) and len(alive) < self._terms.min_sites

    @property
    def _training(self) -> dict[str, Announcement]:
        """Sites that train in rounds: all but the anchor site."""
        left_out = self._anchor.site if self._anchor is not None else ""
        return {site: said for site, said in self._announced.items() if site != left_out}

    def conduct(self, fl_ctx: FLContext, abort: Signal) -> None:
        """Every stage, in order.

        Raises:
            QuorumLost: too few good answers in the census, or in two rounds in a row.
            StudyError: the algorithm wants an anchor site, and there is none at the beginning.
            Aborted: FLARE stopped the job.
            CheckpointError: the server's storage cannot be written.
        """
        self._fl_ctx, self._abort = fl_ctx, abort
        self._asking = Asking(self._controller, self._terms, fl_ctx, abort, self.attendance)
        self._controller.fire_event(AppEventType.TRAINING_STARTED, fl_ctx)
        self._census()
        if self._anchor is not None and not self.state.round:
            self._first_step(self._anchor)
        missed = 0
        last = self._terms.rounds if TRAIN in self._terms.stages else self.state.round
        for t in range(self.state.round + 1, last + 1):
            missed = 0 if self._round(t) else missed + 1
            if missed == ROUNDS_WITHOUT_QUORUM:
                raise self._too_few(f"{missed} rounds in a row")
        for stage in self._terms.stages:
            if stage != TRAIN:
                self._tell(stage)
        self._controller.fire_event(AppEventType.TRAINING_FINISHED, fl_ctx)

    def _census(self) -> None:
        """Ask every site of the job what it holds."""
        engine = self._fl_ctx.get_engine()
        self._sites = tuple(sorted(c.name for c in engine.get_clients()))
        announced: dict[str, Announcement] = {}

        def read(site: str, answer: Shareable) -> None:
            announced[site] = read_census(
                read_reply(answer), self._study, self._terms.most_patients
            )

        tally = self._asking.census(self._sites, self.state.round, read)
        self._announced = {site: announced[site] for site in sorted(announced)}
        held = {site: said.modalities for site, said in self._announced.items()}
        self._slices = SliceForSite(self._contract, held)
        told: Record = {"sites": {s: said.record() for s, said in self._announced.items()}}
        if self._anchor is not None:
            self._anchor.elect(
                self._announced, self._study, self._aggregator.guard, self._ask_anchor
            )
            told["anchor"] = self._anchor.name
        self._book.write(CENSUS, {**told, **tally.record()})
        if len(self._training) < self._terms.min_sites:
            raise self._too_few("the census")

    def _first_step(self, anchor: AnchorStep) -> None:
        """The step on the initial state, once in a run that did not fail it.

        Raises:
            PolyclinicError: nobody can do it.
        """
        first = [r for r in self._book.ledger.records if r["kind"] == ANCHOR]
        if any(r["status"] == ABSORBED for r in first):
            return
        anchor.require()
        state, record = self._stepped(anchor, self.state)
        absorbed = record["status"] == ABSORBED
        if not absorbed:
            record["checkpoint"] = self._book.checkpoint
        line = self._book.write(ANCHOR, {"round": 0, **record}, state if absorbed else None)
        self.bulletin.publish(line, self._fl_ctx)
        self.state = state

    def _stepped(self, anchor: AnchorStep, state: State) -> tuple[State, Record]:
        """The state with its step, and what the ledger says of it."""
        stepped, record = anchor.after(state)
        if self._abort.triggered:
            raise Aborted
        return stepped, record

    def _round(self, t: int) -> bool:
        """One round of training; True when it counts."""
        start = time.monotonic()
        self._fl_ctx.set_prop(AppConstants.CURRENT_ROUND, t, private=True, sticky=False)
        self._controller.fire_event(AppEventType.ROUND_STARTED, self._fl_ctx)
        self._aggregator.open(self.state, t, self._training)
        metrics: dict[str, dict[str, float]] = {}

        def fold(site: str, answer: Shareable) -> None:
            metrics[site] = self._aggregator.accept(site, read_reply(answer))

        tally, sent = self._put(TRAIN, self.state, t, self._training, fold)
        folded = self._aggregator.close(self._terms.min_sites)
        record: Record = {
            "round": t,
            "status": "folded" if folded else "below_quorum",
            "heard": sorted(self._aggregator.heard),
            "bytes_out": sent,
            "bytes_in": self._aggregator.heard,
            "metrics": metrics,
            "seconds": round(time.monotonic() - start, 4),
            **tally.record(),
        }
        if folded is None:
            record |= {"checkpoint": self._book.checkpoint}
            record |= {"anchor": kept_last(BELOW_QUORUM)} if self._anchor else {}
        elif self._anchor is not None:
            folded, record["anchor"] = self._stepped(self._anchor, folded)
        self.state = folded or State(self.state.tensors, t)
        self.bulletin.publish(self._book.write("round", record, folded), self._fl_ctx)
        self._controller.fire_event(AppEventType.ROUND_DONE, self._fl_ctx)
        return folded is not None

    def _tell(self, stage: str) -> None:
        """Send the final state; sites answer with metrics and nothing else."""
        metrics: dict[str, dict[str, float]] = {}

        def note(site: str, answer: Shareable) -> None:
            reply = read_reply(answer)
            if reply.tensors:
                raise Refused("kind", expected="metrics only", got="tensors")
            metrics[site] = self._aggregator.guard.check_metrics(reply)

        tally, sent = self._put(stage, self.state, self.state.round, self._announced, note)
        record = {"round": self.state.round, "bytes_out": sent, "metrics": metrics}
        line = self._book.write(stage, {**record, "heard": sorted(metrics), **tally.record()})
        self.bulletin.publish(line, self._fl_ctx)

    def _put(
        self, task: str, state: State, t: int, sites: Iterable[str], take: Take
    ) -> tuple[Tally, Record]:
        """Ask these sites about a state; also the bytes sent, by site and group."""
        return self._asking.put(task, state, t, sites, self._slices, len(self._training), take)

    def _ask_anchor(self, site: str, state: State, take: Take) -> Tally:
        """Ask one site for the step on a state."""
        return self._put(ANCHOR, state, state.round, [site], take)[0]

    def _too_few(self, where: str) -> QuorumLost:
        return QuorumLost(
            expected=f"good answers of {self._terms.min_sites} sites",
            got=f"fewer in {where}",
            remedy="see refused, failed, late and lost in the ledger; mend the sites and resume",
        )
