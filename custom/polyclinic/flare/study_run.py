"""One run of a study on the server: census, training rounds, finalise, evaluate.

Guarantees:
    * a round closes when every site that is still alive has answered, or at its deadline;
    * below the quorum of good updates the state stays as it was, bit for bit, and after two such
      rounds in a row the run ends as ``failed_quorum``;
    * an answer that comes after the close has no influence, and its site is in the ledger as late;
    * every site that did not count is named in the ledger, with the reason.
"""

import time
from dataclasses import dataclass
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from polyclinic.errors import QuorumLost
from polyclinic.exchange import Contract, State
from polyclinic.flare.aggregator import UpdateAggregator
from polyclinic.flare.bulletin import Bulletin
from polyclinic.flare.census import Announcement, read_census
from polyclinic.flare.convert import CENSUS, EVALUATE, FINALISE, TRAIN, read_reply, task_data
from polyclinic.flare.gathering import Attendance, Gathering
from polyclinic.flare.guard import Refused
from polyclinic.flare.runbook import RunBook
from polyclinic.flare.slice import SliceForSite
from polyclinic.flare.tally import Take, Tally, by_group, gather
from polyclinic.ledger import Record
from polyclinic.study import Study

STAGES = (TRAIN, FINALISE, EVALUATE)
ROUNDS_WITHOUT_QUORUM = 2


class Aborted(Exception):
    """FLARE asked the job to stop."""


@dataclass(frozen=True)
class Terms:
    """What the job asks for.

    Attributes:
        run: id of the run.
        rounds: number of the last round.
        min_sites: fewest good answers for a round to count.
        round_deadline: seconds a round may take.
        fetch_deadline: seconds in which a site must fetch its task, or it is not waited for.
        census_deadline: seconds for the census.
        stages: which of ``STAGES`` are run.
        most_patients: largest number of patients a site may announce.
    """

    run: str
    rounds: int
    min_sites: int
    round_deadline: float
    fetch_deadline: float
    census_deadline: float
    stages: tuple[str, ...]
    most_patients: int


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
    ) -> None:
        self._controller, self._terms, self._study = controller, terms, study
        self._contract, self._aggregator, self._book = contract, aggregator, book
        self.state = state
        self.attendance = Attendance()
        self.bulletin = Bulletin(controller)
        self._sites: tuple[str, ...] = ()
        self._announced: dict[str, Announcement] = {}

    @property
    def depleted(self) -> bool:
        """True when fewer sites are alive than a round needs."""
        alive = set(self._announced or self._sites) - self.attendance.lost
        return bool(self._sites) and len(alive) < self._terms.min_sites

    def conduct(self, fl_ctx: FLContext, abort: Signal) -> None:
        """Every stage, in order.

        Raises:
            QuorumLost: too few good answers in the census, or in two rounds in a row.
            Aborted: FLARE stopped the job.
            CheckpointError: the server's storage cannot be written.
        """
        self._fl_ctx, self._abort = fl_ctx, abort
        self._controller.fire_event(AppEventType.TRAINING_STARTED, fl_ctx)
        self._census()
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

        empty, head = State({}, self.state.round), self._head(CENSUS)
        tally = self._ask(CENSUS, {s: task_data(empty, head) for s in self._sites}, read)
        self._announced = {site: announced[site] for site in sorted(announced)}
        held = {site: said.modalities for site, said in self._announced.items()}
        self._slices = SliceForSite(self._contract, held)
        told = {site: said.record() for site, said in self._announced.items()}
        self._book.write(CENSUS, {"sites": told, **tally.record()})
        if len(announced) < self._terms.min_sites:
            raise self._too_few("the census")

    def _round(self, t: int) -> bool:
        """One round of training; True when it counts."""
        start = time.monotonic()
        self._fl_ctx.set_prop(AppConstants.CURRENT_ROUND, t, private=True, sticky=False)
        self._controller.fire_event(AppEventType.ROUND_STARTED, self._fl_ctx)
        self._aggregator.open(self.state, t, self._announced)
        metrics: dict[str, dict[str, float]] = {}

        def fold(site: str, answer: Shareable) -> None:
            metrics[site] = self._aggregator.accept(site, read_reply(answer))

        questions, sent = self._questions(TRAIN, t)
        tally = self._ask(TRAIN, questions, fold)
        folded = self._aggregator.close(self._terms.min_sites)
        self.state = folded or State(self.state.tensors, t)
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
        if not folded:
            record["checkpoint"] = self._book.checkpoint
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

        questions, sent = self._questions(stage, self.state.round)
        tally = self._ask(stage, questions, note)
        record = {"round": self.state.round, "bytes_out": sent, "metrics": metrics}
        line = self._book.write(stage, {**record, "heard": sorted(metrics), **tally.record()})
        self.bulletin.publish(line, self._fl_ctx)

    def _head(self, stage: str) -> dict[str, Any]:
        """The scalars of a task."""
        return {
            "stage": stage,
            "run": self._terms.run,
            "rounds": self._terms.rounds,
            "deadline": self._deadline(stage),
        }

    def _deadline(self, stage: str) -> float:
        """Seconds in which a stage's question is answered."""
        return self._terms.census_deadline if stage == CENSUS else self._terms.round_deadline

    def _questions(self, stage: str, t: int) -> tuple[dict[str, Shareable], Record]:
        """Each site's task, and the bytes of tensors in it by site and group.

        ``sites`` is how many answered the census: a site may refuse a mean of too few.
        """
        questions, sent = {}, {}
        head = {**self._head(stage), "t": t, "sites": len(self._announced)}
        for site in self._announced:
            cut = self._slices.of(self.state, site)
            questions[site] = task_data(cut, head)
            sent[site] = by_group(cut.tensors)
        return questions, sent

    def _ask(self, stage: str, questions: dict[str, Shareable], take: Take) -> Tally:
        """Ask, and hand every good answer to ``take`` as it comes."""
        gathering = Gathering(
            self._controller,
            stage,
            questions,
            deadline_s=self._deadline(stage),
            fetch_s=self._terms.fetch_deadline,
            attendance=self.attendance,
        )
        tally = gather(gathering, take, self._fl_ctx, self._abort)
        if self._abort.triggered:
            raise Aborted
        return tally

    def _too_few(self, where: str) -> QuorumLost:
        return QuorumLost(
            expected=f"good answers of {self._terms.min_sites} sites",
            got=f"fewer in {where}",
            remedy="see refused, failed, late and lost in the ledger; mend the sites and resume",
        )
