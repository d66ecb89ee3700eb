"""The job on the server: census, training rounds, finalise, evaluate.

``Rounds`` is a plain FLARE ``Controller``. Stock ``FedAvg`` is not its base: of it nothing would
remain, since its round has no deadline, counts errors as answers, takes the kind of all updates
from the first, replaces the model by whatever came, saves without a hash, and aggregates under the
lock that every site's requests wait for. What is used here is FLARE's public controller interface.

Guarantees:
    * a round closes when every site that is still alive has answered, or at its deadline;
    * below the quorum of good updates the state stays as it was, bit for bit, and after two such
      rounds in a row the run ends as ``failed_quorum``;
    * an answer that comes after the close has no influence, and is in the ledger once;
    * every site that did not count is named in the ledger, with the reason.
"""

import time
from pathlib import Path
from typing import Any

import nvflare
from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

import polyclinic
from polyclinic.algorithms.base import Server
from polyclinic.errors import PolyclinicError, QuorumLost, StudyError
from polyclinic.exchange import Contract, State
from polyclinic.flare.aggregator import UpdateAggregator
from polyclinic.flare.bulletin import Bulletin
from polyclinic.flare.census import Announcement, read_census
from polyclinic.flare.convert import CENSUS, EVALUATE, FINALISE, TRAIN, read_reply, task_data
from polyclinic.flare.endurance import bear_return_codes
from polyclinic.flare.gathering import Attendance, Gathering
from polyclinic.flare.guard import Refused
from polyclinic.flare.runbook import RunBook, run_folder
from polyclinic.flare.slice import SliceForSite
from polyclinic.flare.tally import Take, Tally, by_group, gather
from polyclinic.ledger import Record
from polyclinic.study import Study, load_study

STAGES = (TRAIN, FINALISE, EVALUATE)
ROUNDS_WITHOUT_QUORUM = 2


class Aborted(Exception):
    """FLARE asked the job to stop."""


class Rounds(Controller):
    """Runs a study on the server.

    Args:
        server: the algorithm's server half.
        rounds: number of the last round.
        min_sites: fewest good answers for a round to count.
        round_deadline: seconds a round may take.
        fetch_deadline: seconds in which a site must fetch its task, or it is not waited for.
        most_patients: largest weight a site may claim.
        run: run to continue; "" starts a new one under this job's own id.
        start_round: rounds of that run that are done.
        stages: which of train, finalise, evaluate are run, in that order.
    """

    def __init__(
        self,
        server: Any,
        rounds: int,
        min_sites: int = 2,
        round_deadline: float = 3600.0,
        fetch_deadline: float = 120.0,
        most_patients: int = 1_000_000,
        run: str = "",
        start_round: int = 0,
        stages: list[str] | None = None,
    ) -> None:
        super().__init__()
        wrong = [s for s in stages or () if s not in STAGES]
        if not isinstance(server, Server):
            _refuse("a class with contract, initial, begin, accept and finish", "server")
        if min(rounds, start_round) < 0 or start_round > rounds or bool(start_round) > bool(run):
            _refuse("0 <= start_round <= rounds, and a run id with start_round", "start_round")
        if min_sites < 1 or min(round_deadline, fetch_deadline) <= 0 or most_patients < 1 or wrong:
            _refuse("positive numbers and known stages", "min_sites, deadlines or stages")
        self.server, self.rounds, self.min_sites = server, rounds, min_sites
        self.round_deadline, self.fetch_deadline = round_deadline, fetch_deadline
        self.most_patients, self.run, self.start_round = most_patients, run, start_round
        self.stages = tuple(s for s in STAGES if s in (stages or STAGES))
        self.attendance = Attendance()
        self._bulletin = Bulletin(self)
        self._held: dict[str, tuple[str, ...]] = {}

    def start_controller(self, fl_ctx: FLContext) -> None:
        """FLARE: nothing to prepare; everything happens in ``control_flow``."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """FLARE: nothing to release."""

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,
        result: Shareable,
        fl_ctx: FLContext,
    ) -> None:
        """FLARE: an answer after the close; it has no influence and is in the ledger as late."""
        self.log_info(fl_ctx, f"answer of {client.name} to '{task_name}' came too late: dropped")

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """FLARE: a site's job process is gone, or back; or somebody asks how far the job is."""
        if event_type == EventType.CLIENT_DISCONNECTED:
            self.attendance.gone(str(fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME)))
        elif event_type == EventType.CLIENT_RECONNECTED:
            self.attendance.back(str(fl_ctx.get_prop(FLContextKey.RECONNECTED_CLIENT_NAME)))
        else:
            self._bulletin.answer(event_type, fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """FLARE: the whole job; a failure ends it with a sentence that says whose job it is."""
        try:
            self._open(fl_ctx)
        except PolyclinicError as error:
            self.system_panic(str(error), fl_ctx)
            return
        bear_return_codes(fl_ctx)
        self._abort, self._fl_ctx = abort_signal, fl_ctx
        status, reason = "completed", ""
        try:
            self._run()
        except QuorumLost as error:
            status, reason = "failed_quorum", str(error)
        except PolyclinicError as error:
            status, reason = f"failed_{error.code}", str(error)
        except Aborted:
            status, reason = self._abort_status(), "FLARE stopped the job"
        facts = {"status": status, "reason": reason, "round": self._state.round, "run": self.run}
        try:
            self._book.end(self._state, facts)
        except PolyclinicError as error:
            status, reason = f"failed_{error.code}", reason or str(error)
        self.log_info(fl_ctx, f"run {self.run} ended: {status}")
        if status != "completed":
            self.system_panic(reason, fl_ctx)

    def _open(self, fl_ctx: FLContext) -> None:
        """Study, contract, run book and state."""
        job = str(fl_ctx.get_job_id())
        workspace = fl_ctx.get_engine().get_workspace()
        self.run = self.run or job
        self._study: Study = load_study(Path(workspace.get_app_config_dir(job)))
        self._contract: Contract = self.server.contract(self._study)
        self._aggregator = UpdateAggregator(
            self.server, self._study, self._contract, self.most_patients
        )
        folder, here = run_folder(workspace, self.run), Path(workspace.get_run_dir(job))
        self._book = RunBook(folder, here, self._contract)
        facts: Record = {
            "run": self.run,
            "job": job,
            "rounds": self.rounds,
            "min_sites": self.min_sites,
            "polyclinic": polyclinic.__version__,
            "nvflare": nvflare.__version__,
        }
        if self.run != job:
            self._state = self._book.resume(self._study, self.start_round, facts)
        else:
            self._state = self._book.begin(self._study, self.server.initial(self._study), facts)

    def _run(self) -> None:
        """Every stage, in order."""
        self.fire_event(AppEventType.TRAINING_STARTED, self._fl_ctx)
        self._census()
        missed = 0
        first = self.start_round + 1 if TRAIN in self.stages else self.rounds + 1
        for t in range(first, self.rounds + 1):
            missed = 0 if self._round(t) else missed + 1
            if missed == ROUNDS_WITHOUT_QUORUM:
                raise self._too_few(f"{missed} rounds in a row")
        for stage in self.stages:
            if stage != TRAIN:
                self._tell(stage)
        self.fire_event(AppEventType.TRAINING_FINISHED, self._fl_ctx)

    def _census(self) -> None:
        """Ask every site of the job what it holds.

        Raises:
            QuorumLost: fewer than ``min_sites`` sites may take part.
        """
        sites = sorted(c.name for c in self._fl_ctx.get_engine().get_clients())
        announced: dict[str, Announcement] = {}

        def read(site: str, answer: Shareable) -> None:
            announced[site] = read_census(read_reply(answer), self._study)

        empty, head = State({}, self._state.round), self._head(CENSUS)
        questions = {site: task_data(empty, head) for site in sites}
        tally = self._ask(CENSUS, questions, read)
        self._held = {site: found.modalities for site, found in announced.items()}
        self._slices = SliceForSite(self._contract, self._held)
        told = {
            site: {
                "modalities": list(found.modalities),
                "counts": found.counts,
                "quarantined": found.quarantined,
                "version": found.version,
            }
            for site, found in sorted(announced.items())
        }
        self._book.write(CENSUS, {"sites": told, **tally.record()})
        if len(announced) < self.min_sites:
            raise self._too_few("the census")

    def _round(self, t: int) -> bool:
        """One round of training; True when it counts."""
        start = time.monotonic()
        self._fl_ctx.set_prop(AppConstants.CURRENT_ROUND, t, private=True, sticky=False)
        self.fire_event(AppEventType.ROUND_STARTED, self._fl_ctx)
        self._aggregator.open(self._state, t, self._held)
        metrics: dict[str, dict[str, float]] = {}

        def fold(site: str, answer: Shareable) -> None:
            metrics[site] = self._aggregator.accept(site, read_reply(answer))

        questions, sent = self._questions(TRAIN, t)
        tally = self._ask(TRAIN, questions, fold)
        folded = self._aggregator.close(self.min_sites)
        self._state = folded or State(self._state.tensors, t)
        record = {
            "round": t,
            "status": "folded" if folded else "below_quorum",
            "heard": sorted(self._aggregator.heard),
            "bytes_out": sent,
            "bytes_in": self._aggregator.heard,
            "metrics": metrics,
            "seconds": round(time.monotonic() - start, 4),
            **tally.record(),
        }
        if folded:
            self._book.write("round", record, folded)
        else:
            self._book.write("round", {**record, "checkpoint": self._book.checkpoint})
        self._bulletin.publish(self._book.ledger.records[-1], self._fl_ctx)
        self.fire_event(AppEventType.ROUND_DONE, self._fl_ctx)
        return folded is not None

    def _tell(self, stage: str) -> None:
        """Send the final state; sites answer with metrics and nothing else."""
        metrics: dict[str, dict[str, float]] = {}

        def note(site: str, answer: Shareable) -> None:
            reply = read_reply(answer)
            if reply.tensors:
                raise Refused("kind", expected="metrics only", got="tensors")
            metrics[site] = self._aggregator.guard.check_metrics(reply)

        questions, sent = self._questions(stage, self._state.round)
        tally = self._ask(stage, questions, note)
        record = {"round": self._state.round, "bytes_out": sent, "metrics": metrics}
        self._book.write(stage, {**record, "heard": sorted(metrics), **tally.record()})
        self._bulletin.publish(self._book.ledger.records[-1], self._fl_ctx)

    def _head(self, stage: str) -> dict[str, Any]:
        """The scalars of a task."""
        return {"stage": stage, "run": self.run, "rounds": self.rounds}

    def _questions(self, stage: str, t: int) -> tuple[dict[str, Shareable], Record]:
        """Each site's task, and the bytes of tensors in it by site and group.

        A site whose slice fails gets no task; the others do.
        """
        questions, sent = {}, {}
        for site in sorted(self._held):
            try:
                cut = self._slices.of(self._state, site)
            except KeyError:
                self.log_error(self._fl_ctx, f"no slice for {site}: it gets no '{stage}' task")
                continue
            questions[site] = task_data(cut, {**self._head(stage), "t": t})
            sent[site] = by_group(cut.tensors)
        return questions, sent

    def _ask(self, stage: str, questions: dict[str, Shareable], take: Take) -> Tally:
        """Ask, and hand every good answer to ``take`` as it comes."""
        gathering = Gathering(
            self,
            stage,
            questions,
            deadline_s=self.round_deadline,
            fetch_s=self.fetch_deadline,
            attendance=self.attendance,
        )
        tally = gather(gathering, take, self._fl_ctx, self._abort)
        if self._abort.triggered:
            raise Aborted
        return tally

    def _too_few(self, where: str) -> QuorumLost:
        return QuorumLost(
            expected=f"good answers of {self.min_sites} sites",
            got=f"fewer in {where}",
            remedy="see refused, failed, late and lost in the ledger; mend the sites and resume",
        )

    def _abort_status(self) -> str:
        """``failed_quorum`` when FLARE stopped the job because too few sites are left."""
        left = set(self._held) - self.attendance.lost
        return "failed_quorum" if self._held and len(left) < self.min_sites else "aborted"


def _refuse(expected: str, where: str) -> None:
    raise StudyError(
        expected=expected, got=f"something else in {where}", remedy="correct config_fed_server.json"
    )
