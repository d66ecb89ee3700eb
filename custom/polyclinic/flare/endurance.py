"""What keeps one site from ending the job of all.

FLARE 2.9 fails a whole job when one site's job process dies, whatever ``min_clients`` says, stops
it when one site answers with certain return codes or fewer than ``min_clients`` are left, tells it
nothing when a site restarts faster than its heartbeat expires, and shows a job as running for ever
when the server was killed under it. It also fires in the server's job whatever event a site sends,
the one that ends a job among them, and lets whoever reaches a site's job process have it do a task.
No setting changes that, so these small wraps do.
They use members that FLARE does not promise to keep; tests/flare/test_endurance.py pins them.
"""

from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedTopic, RunProcessKey
from nvflare.apis.fl_constant import ReturnCode as FlareReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.shareable import make_reply as make_unknown
from nvflare.fuel.common.exit_codes import ProcessExitCode
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.private.defs import (
    CellChannel,
    CellChannelTopic,
    CellMessageHeaderKeys,
    JobFailureMsgKey,
)
from nvflare.widgets.fed_event import FED_EVENT_TOPIC
from nvflare.widgets.widget import Widget

# An unsafe component is a hospital's refusal of the job itself: FLARE stops the job, rightly.
BORNE = (
    ProcessExitCode.EXCEPTION,
    ProcessExitCode.CONFIG_ERROR,
    ProcessExitCode.INFRASTRUCTURE_ERROR,
    JobReturnCode.ABORTED,
)

# Events of another party, and tasks from anybody but the server's round.
UNASKED = frozenset({FED_EVENT_TOPIC, ReservedTopic.DO_TASK})


def deaf_to_parties(fl_ctx: FLContext) -> None:
    """Answer no message of ``UNASKED``, in a job's own process at the server or a site.

    Nothing of this package sends one: sites fetch their tasks from the server, and tell what they
    have to say in an answer that filters have seen.
    """
    engine = fl_ctx.get_engine()
    runner = (getattr(engine, "run_manager", None) or engine).aux_runner
    stock = runner.dispatch

    def dispatch(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        if topic in UNASKED:
            return make_unknown(FlareReturnCode.TOPIC_UNKNOWN)
        reply: Shareable = stock(topic=topic, request=request, fl_ctx=fl_ctx)
        return reply

    runner.dispatch = dispatch


def bear_with_sites(fl_ctx: FLContext, communicator: Any) -> None:
    """Leave to the run what FLARE would end the job for, in the job's own process.

    Every return code of a site is noted and the round goes on. ``min_clients`` of the job says how
    many sites it takes to start; how many a round needs, and when to give up, is the run's quorum.
    """
    runner = fl_ctx.get_prop(FLContextKey.RUNNER)
    if runner is not None:
        runner.ABORT_RETURN_CODES = []
    communicator._job_policy_violated = lambda: False


class SiteLossTolerance(Widget):
    """A component of the server's own ``local/*__p_resources.json``, so of its parent process.

    * A site's job process that died is reported to the job as lost, instead of failing the job.
      A site that the job names as mandatory still fails it.
    * A site that registers again while it has a job running is reported to that job as lost:
      FLARE does not start a job a second time at a site.
    * Jobs that the server had running when it was killed are marked FINISHED:ABNORMAL at its next
      start, so that they can be deleted. ``polyclinic run resume`` continues the run.

    Whether enough sites are left is then decided in the job, by its quorum.
    """

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """FLARE: the server is up, or a site has registered."""
        engine = fl_ctx.get_engine()
        if event_type == EventType.SYSTEM_START:
            engine.server.cell.register_request_cb(
                channel=CellChannel.SERVER_MAIN,
                topic=CellChannelTopic.REPORT_JOB_FAILURE,
                cb=self._on_failure,
                server=engine.server,
            )
            engine.job_runner.update_abnormal_finished_jobs([], fl_ctx)
        elif event_type == EventType.CLIENT_REGISTER_PROCESSED:
            self._report_restarted(engine)

    def _on_failure(self, request: Any, server: Any) -> Any:
        """Stand in for ``process_job_failure``: bear what can be borne, pass on the rest."""
        report = request.payload if isinstance(request.payload, dict) else {}
        token = request.get_header(CellMessageHeaderKeys.TOKEN)
        site = server.client_manager.clients.get(token)
        job = server.engine.job_runner.running_jobs.get(report.get(JobFailureMsgKey.JOB_ID))
        if (
            site is None
            or job is None
            or report.get(JobFailureMsgKey.CODE) not in BORNE
            or site.name in job.required_sites
        ):
            return server.process_job_failure(request)
        self._report_lost(server.engine, job.job_id, site.name, "its job process ended")
        return make_reply(CellReturnCode.OK, "", None)

    def _report_restarted(self, engine: Any) -> None:
        """Tell running jobs of every participant that is registered anew under another token."""
        present = {client.name: token for token, client in engine.client_manager.clients.items()}
        for job_id, process in list(engine.run_processes.items()):
            for token, client in (process.get(RunProcessKey.PARTICIPANTS) or {}).items():
                if present.get(client.name, token) != token:
                    self._report_lost(engine, job_id, client.name, "the site restarted")

    def _report_lost(self, engine: Any, job_id: str, site: str, reason: str) -> None:
        self.logger.warning(f"job {job_id} goes on without {site}: {reason}")
        engine.notify_dead_job(job_id, site, reason)
        engine.job_runner.resolve_client_outcome(job_id, site)
