"""A study's job on the server, as FLARE sees it.

``Rounds`` is a plain FLARE ``Controller``. Stock ``FedAvg`` is not its base: of it nothing would
remain, since its round has no deadline, counts errors as answers, takes the kind of all updates
from the first, replaces the model by whatever came, saves without a hash, and aggregates under the
lock that every site's requests wait for. What is used here is FLARE's public controller interface.
"""

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

import polyclinic
from polyclinic.algorithms.base import Server, wants_anchor
from polyclinic.errors import PolyclinicError, QuorumLost, StudyError
from polyclinic.exchange import Contract
from polyclinic.flare.aggregator import UpdateAggregator
from polyclinic.flare.anchor_step import AnchorStep
from polyclinic.flare.archive import FEWEST_SITES
from polyclinic.flare.asking import Aborted
from polyclinic.flare.bundle import check_bundle
from polyclinic.flare.convert import TRAIN, WAYS
from polyclinic.flare.endurance import bear_with_sites, deaf_to_parties
from polyclinic.flare.guard import MOST_PATIENTS, UpdateGuard
from polyclinic.flare.own_data import OwnData
from polyclinic.flare.payload import bear_with_payloads, largest_message
from polyclinic.flare.runbook import LATEST, RunBook, latest_run, run_folder
from polyclinic.flare.site import SETTINGS, client_spec
from polyclinic.flare.study_run import StudyRun
from polyclinic.flare.terms import STAGES, Terms
from polyclinic.models.weights import weights_at
from polyclinic.settings import load_settings, server_anchor, server_weights
from polyclinic.study import Study, load_study


class Rounds(Controller):
    """Runs a study on the server.

    Args:
        server: the algorithm's server half.
        rounds: number of the last round.
        min_sites: fewest good answers for a round to count, 2 at least.
        round_deadline: seconds a round may take.
        fetch_deadline: seconds in which a site must fetch its task, or it is not waited for.
        census_deadline: seconds for the first answer, before which a site starts its training
            process and reads its cohort; the round's deadline when that is longer.
        most_patients: largest number of patients a site may announce.
        most_share: largest part of a mean's patients one site may weigh, of those announced; above
            it a site is cut off at that part. 1, the default, believes the census.
        run: run to continue; "" starts a new one under this job's own id, "latest" continues the
            newest completed run of the same study and algorithm, at its last round.
        start_round: rounds of that run that are done.
        stages: which of train, finalise, evaluate are run; all when not given.
        anchor: where the algorithm wants a step between rounds, who does it: ``site``, a site that
            offers to, or ``server``, on a cohort of the server's own.
        anchor_client: of the latter, the client half, ``{"path", "args", "config_type": "dict"}``.
    """

    def __init__(
        self,
        server: Any,
        rounds: int,
        min_sites: int = 2,
        round_deadline: float = 3600.0,
        fetch_deadline: float = 120.0,
        census_deadline: float = 300.0,
        most_patients: int = MOST_PATIENTS,
        most_share: float = 1.0,
        run: str = "",
        start_round: int = 0,
        stages: list[str] | None = None,
        anchor: str = "site",
        anchor_client: Any = None,
    ) -> None:
        super().__init__()
        wanted = tuple(stages or STAGES)
        if not isinstance(server, Server):
            _refuse("a class with contract, initial, begin, accept and finish", "server")
        if not 0 <= start_round <= rounds or (start_round and not run):
            _refuse("0 <= start_round <= rounds, and a run id with start_round", "start_round")
        if min_sites < FEWEST_SITES:
            _refuse(f"{FEWEST_SITES} sites or more", "min_sites")
        if min(round_deadline, fetch_deadline, census_deadline) <= 0 or most_patients < 1:
            _refuse("positive numbers", "the deadlines or most_patients")
        if not 0 < most_share <= 1:
            _refuse("a part in (0, 1]", "most_share")
        if not set(wanted) <= set(STAGES):
            _refuse(f"stages among {', '.join(STAGES)}", "stages")
        if anchor not in ("site", "server") or (anchor == "server") != (anchor_client is not None):
            _refuse("site, or server with an anchor_client", "anchor or anchor_client")
        self.anchor = anchor
        self.anchor_client = client_spec(anchor_client) if anchor_client is not None else None
        self.server, self.rounds, self.min_sites = server, rounds, min_sites
        self.round_deadline, self.fetch_deadline = round_deadline, fetch_deadline
        self.census_deadline = census_deadline
        self.most_patients, self.most_share = most_patients, most_share
        self.run, self.start_round = run, start_round
        self.stages = tuple(s for s in STAGES if s in wanted)
        self._study_run: StudyRun | None = None
        self._own: OwnData | None = None

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
        """FLARE: an answer after the close; the ledger already has its site as late."""
        self.log_info(fl_ctx, f"answer of {client.name} to '{task_name}' came too late: dropped")

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """FLARE: a site's job process is gone, or back; or somebody asks how far the job is."""
        if event_type == EventType.START_RUN:
            deaf_to_parties(fl_ctx)
        if self._study_run is None:
            return
        if event_type == EventType.CLIENT_DISCONNECTED:
            site = fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME)
            self._study_run.attendance.gone(str(site))
        elif event_type == EventType.CLIENT_RECONNECTED:
            site = fl_ctx.get_prop(FLContextKey.RECONNECTED_CLIENT_NAME)
            self._study_run.attendance.back(str(site))
        else:
            self._study_run.bulletin.answer(event_type, fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """FLARE: the whole job; a failure ends it with a sentence that says whose job it is."""
        bear_with_sites(fl_ctx, self.communicator)
        try:
            book, study_run = self._open(fl_ctx, abort_signal)
        except PolyclinicError as error:
            self.system_panic(str(error), fl_ctx)
            return
        except Exception as error:
            self.system_panic(self._unexpected(error, fl_ctx), fl_ctx)
            return
        status, reason = "completed", ""
        try:
            study_run.conduct(fl_ctx, abort_signal)
        except QuorumLost as error:
            status, reason = "failed_quorum", str(error)
        except PolyclinicError as error:
            status, reason = f"failed_{error.code}", str(error)
        except Aborted:
            status = "failed_quorum" if study_run.depleted else "aborted"
            reason = "FLARE stopped the job"
        except Exception as error:
            status, reason = "failed_unexpected", self._unexpected(error, fl_ctx)
        finally:
            if self._own is not None:
                self._own.end()
        state = study_run.state
        try:
            facts = {"status": status, "reason": reason, "round": state.round, "run": self.run}
            book.end(state, facts)
        except PolyclinicError as error:
            status, reason = f"failed_{error.code}", reason or str(error)
        self.log_info(fl_ctx, f"run {self.run} ended: {status}")
        if status != "completed":
            self.system_panic(reason, fl_ctx)

    def _unexpected(self, error: Exception, fl_ctx: FLContext) -> str:
        """A sentence for an exception that nobody foresaw; its traceback goes to the server's log.

        Without it FLARE would show no more than a class name, and the ledger would have no end.
        """
        kind = type(error).__name__
        self.log_exception(fl_ctx, f"{kind} in the run")
        return f"{kind} in the server's half of the run; see the server's log (researcher)."

    def _open(self, fl_ctx: FLContext, abort: Signal) -> tuple[RunBook, StudyRun]:
        """The run book, and the run at the state it starts from.

        Raises:
            PolyclinicError: study, storage or checkpoint are not as they should be.
        """
        job = str(fl_ctx.get_job_id())
        workspace = fl_ctx.get_engine().get_workspace()
        self.run = self.run or job
        config = Path(workspace.get_app_config_dir(job))
        check_bundle(config)
        study = load_study(config)
        contract = self.server.contract(study)
        largest = max(contract.nbytes_for(study.modalities, way) for way in WAYS.values())
        bear_with_payloads(largest_message(largest))
        algorithm = f"{type(self.server).__module__}.{type(self.server).__qualname__}"
        if self.run == LATEST:
            self.run, self.start_round = latest_run(workspace, study, algorithm)
            self.rounds = max(self.rounds, self.start_round)
        local = Path(workspace.get_site_config_dir())
        step = self._anchor_step(study, contract, local, abort)
        folder, here = run_folder(workspace, self.run), Path(workspace.get_run_dir(job))
        book = RunBook(folder, here, contract)
        facts = {
            "run": self.run,
            "job": job,
            "algorithm": algorithm,
            "rounds": self.rounds,
            "min_sites": self.min_sites,
            "polyclinic": polyclinic.__version__,
            "nvflare": nvflare.__version__,
        }
        if self.run == job:
            with weights_at(server_weights(local)):
                initial = self.server.initial(study)
            state = book.begin(study, initial, facts)
        else:
            state = book.resume(study, self.start_round, facts)
        aggregator = UpdateAggregator(self.server, study, contract, self.most_share)
        self._study_run = StudyRun(
            self, self._terms(), study, contract, aggregator, book, state, step
        )
        return book, self._study_run

    def _terms(self) -> Terms:
        """What this job asks for."""
        return Terms(
            self.run,
            self.rounds,
            self.min_sites,
            self.round_deadline,
            self.fetch_deadline,
            max(self.round_deadline, self.census_deadline),
            self.stages,
            self.most_patients,
        )

    def _anchor_step(
        self, study: Study, contract: Contract, local: Path, abort: Signal
    ) -> AnchorStep | None:
        """The step between rounds, where this run has one.

        Raises:
            SiteError: the server's own files about it cannot be read.
        """
        if not wants_anchor(self.server) or TRAIN not in self.stages:
            return None
        if self.anchor_client is not None:
            settings, guard = load_settings(local / SETTINGS), UpdateGuard(contract)
            stopped, client = (lambda: bool(abort.triggered)), self.anchor_client
            terms = self.run, self.round_deadline
            self._own = OwnData(settings, study, client, guard, *terms, stopped)
        return AnchorStep(self.server, contract, server_anchor(local), self._own)


def _refuse(expected: str, where: str) -> None:
    raise StudyError(
        expected=expected, got=f"something else in {where}", remedy="correct config_fed_server.json"
    )
