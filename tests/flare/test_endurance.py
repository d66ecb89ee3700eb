"""One site's end is not the job's, and the members of FLARE that this rests on are still there."""

import inspect
import time
from types import SimpleNamespace
from typing import Any

import nvflare
import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import (
    FedEventHeader,
    FLContextKey,
    ReservedKey,
    ReservedTopic,
    RunProcessKey,
)
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.impl.wf_comm_server import WFCommServer
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.fuel.common.exit_codes import ProcessExitCode
from nvflare.private.aux_runner import AuxRunner
from nvflare.private.defs import (
    CellChannel,
    CellChannelTopic,
    CellMessageHeaderKeys,
    JobFailureMsgKey,
)
from nvflare.private.fed.client.client_run_manager import ClientRunManager
from nvflare.private.fed.server.fed_server import FederatedServer
from nvflare.private.fed.server.job_runner import JobRunner
from nvflare.private.fed.server.server_engine import ServerEngine
from nvflare.private.fed.server.server_runner import ServerRunner
from nvflare.widgets.fed_event import FED_EVENT_TOPIC, ServerFedEventRunner

from polyclinic.flare.endurance import SiteLossTolerance, bear_with_sites, deaf_to_parties

STOCK = "the stock answer"


class _Server:
    """As much of a FederatedServer as the widget touches."""

    def __init__(self) -> None:
        site = SimpleNamespace(name="site-2")
        self.registered: dict[tuple[str, str], Any] = {}
        self.lost: list[tuple[str, str]] = []
        self.resolved: list[tuple[str, str]] = []
        self.stock: list[Any] = []
        self.swept: list[list[str]] = []
        job = SimpleNamespace(job_id="job-1", required_sites=["site-3"])
        self.client_manager = SimpleNamespace(
            clients={"token-2": site, "token-3": SimpleNamespace(name="site-3")}
        )
        self.cell = SimpleNamespace(register_request_cb=self._register)
        runner = SimpleNamespace(
            running_jobs={"job-1": job},
            resolve_client_outcome=lambda j, s: self.resolved.append((j, s)),
            update_abnormal_finished_jobs=lambda running, fl_ctx: self.swept.append(running),
        )
        self.engine = SimpleNamespace(
            server=self,
            job_runner=runner,
            client_manager=self.client_manager,
            run_processes={"job-1": {RunProcessKey.PARTICIPANTS: {"token-2": site}}},
            notify_dead_job=lambda j, s, reason: self.lost.append((j, s)),
        )

    def _register(self, channel: str, topic: str, cb: Any, **kwargs: Any) -> None:
        self.registered[(channel, topic)] = lambda request: cb(request, **kwargs)

    def process_job_failure(self, request: Any) -> str:
        self.stock.append(request)
        return STOCK


def _context(server: _Server) -> FLContext:
    fl_ctx = FLContext()
    fl_ctx.set_prop("__engine__", server.engine, private=True, sticky=False)
    return fl_ctx


def _report(server: _Server, code: int, token: str = "token-2", job: str = "job-1") -> Any:
    SiteLossTolerance().handle_event(EventType.SYSTEM_START, _context(server))
    handler = server.registered[(CellChannel.SERVER_MAIN, CellChannelTopic.REPORT_JOB_FAILURE)]
    payload = {JobFailureMsgKey.JOB_ID: job, JobFailureMsgKey.CODE: code}
    headers = {CellMessageHeaderKeys.TOKEN: token}
    return handler(SimpleNamespace(payload=payload, get_header=headers.get))


@pytest.mark.parametrize(
    "code",
    [
        ProcessExitCode.EXCEPTION,
        ProcessExitCode.CONFIG_ERROR,
        ProcessExitCode.INFRASTRUCTURE_ERROR,
        9,
    ],
)
def test_f01_a_dead_job_process_is_reported_as_a_lost_site(code: int) -> None:
    server = _Server()
    assert _report(server, code) != STOCK
    assert server.lost == server.resolved == [("job-1", "site-2")]
    assert server.stock == []


@pytest.mark.parametrize(
    ("code", "token", "job"),
    [
        (ProcessExitCode.UNSAFE_COMPONENT, "token-2", "job-1"),
        (ProcessExitCode.EXCEPTION, "token-3", "job-1"),
        (ProcessExitCode.EXCEPTION, "stolen", "job-1"),
        (ProcessExitCode.EXCEPTION, "token-2", "job-9"),
        (0, "token-2", "job-1"),
    ],
    ids=["refusal", "mandatory site", "unknown token", "unknown job", "good end"],
)
def test_everything_else_is_left_to_flare(code: int, token: str, job: str) -> None:
    server = _Server()
    assert _report(server, code, token, job) == STOCK
    assert server.lost == []


def test_f02_a_site_that_registers_anew_during_its_job_is_lost_to_that_job() -> None:
    server = _Server()
    widget, fl_ctx = SiteLossTolerance(), _context(server)
    widget.handle_event(EventType.CLIENT_REGISTER_PROCESSED, fl_ctx)
    assert server.lost == []
    server.client_manager.clients = {"token-2b": SimpleNamespace(name="site-2")}
    widget.handle_event(EventType.CLIENT_REGISTER_PROCESSED, fl_ctx)
    assert server.lost == [("job-1", "site-2")]


def test_f05_jobs_that_a_killed_server_left_running_are_ended_when_it_starts() -> None:
    server = _Server()
    SiteLossTolerance().handle_event(EventType.SYSTEM_START, _context(server))
    assert server.swept == [[]]


def test_neither_a_return_code_nor_a_loss_stops_the_job_in_its_own_process() -> None:
    assert ServerRunner.ABORT_RETURN_CODES
    runner = SimpleNamespace(ABORT_RETURN_CODES=["TASK_UNKNOWN"])
    fl_ctx, communicator = FLContext(), WFCommServer()
    fl_ctx.set_prop(FLContextKey.RUNNER, runner, private=True, sticky=False)
    bear_with_sites(fl_ctx, communicator)
    assert runner.ABORT_RETURN_CODES == []
    assert "self.ABORT_RETURN_CODES" in inspect.getsource(ServerRunner._process_submission)
    assert communicator._job_policy_violated() is False
    assert "self._job_policy_violated()" in inspect.getsource(WFCommServer._monitor_tasks)


class _Processes:
    """The engine of a job's process at the server, or at a site where it is its own manager."""

    def __init__(self, at_server: bool) -> None:
        self.fired: list[str] = []
        self.done: list[str] = []
        self.aux_runner = AuxRunner(self)
        if at_server:
            self.run_manager = self
        self.manager = FLContextManager(
            engine=self,
            identity_name="here",
            job_id="job-1",
            public_stickers={},
            private_stickers={FLContextKey.RUN_ABORT_SIGNAL: Signal()}
            | {ReservedKey.RUN_ABORT_SIGNAL: Signal()},
        )

    def new_context(self) -> Any:
        return self.manager.new_context()

    def register_aux_message_handler(self, topic: str, message_handle_func: Any) -> None:
        self.aux_runner.register_aux_message_handler(topic, message_handle_func)

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.fired.append(event_type)


def _say(processes: _Processes, topic: str, **head: Any) -> str:
    """What a party's message gets for an answer."""
    request = Shareable()
    for key, value in head.items():
        request.set_header(key, value)
    peer = FLContext()
    peer.set_prop(ReservedKey.IDENTITY_NAME, "site-3", private=False, sticky=False)
    request.set_peer_props(peer.get_all_public_props())
    with processes.new_context() as fl_ctx:
        reply = processes.aux_runner.dispatch(topic=topic, request=request, fl_ctx=fl_ctx)
    return str(reply.get_return_code())


@pytest.mark.parametrize("at_server", [True, False])
@pytest.mark.parametrize("deaf", [True, False])
def test_no_party_fires_an_event_nor_has_a_task_done_elsewhere(at_server: bool, deaf: bool) -> None:
    processes = _Processes(at_server)
    runner = ServerFedEventRunner()
    done = {"topic": ReservedTopic.DO_TASK, "message_handle_func": lambda **_: make_reply("OK")}
    processes.register_aux_message_handler(**done)
    kept = {"topic": ReservedTopic.END_RUN, "message_handle_func": lambda **_: make_reply("OK")}
    processes.register_aux_message_handler(**kept)
    with processes.new_context() as fl_ctx:
        if deaf:
            deaf_to_parties(fl_ctx)  # whether before or after FLARE listens
        runner.handle_event(EventType.START_RUN, fl_ctx)
        signal = runner.abort_signal
    event = {
        FedEventHeader.EVENT_TYPE: EventType.FATAL_SYSTEM_ERROR,
        FedEventHeader.TIMESTAMP: 1.0,
        FedEventHeader.EVENT_ID: "1",
    }
    answers = [_say(processes, FED_EVENT_TOPIC, **event), _say(processes, ReservedTopic.DO_TASK)]
    until = time.monotonic() + 5
    while not deaf and not processes.fired and time.monotonic() < until:
        time.sleep(0.01)
    signal.trigger(True)
    if runner.poster is not None:
        runner.poster.join()
    assert answers == ["TOPIC_UNKNOWN" if deaf else "OK"] * 2
    assert _say(processes, ReservedTopic.END_RUN) == "OK"
    # Without us FLARE fires it, and its runner ends the job.
    assert processes.fired == ([] if deaf else [EventType.FATAL_SYSTEM_ERROR])
    assert "EventType.FATAL_SYSTEM_ERROR" in inspect.getsource(ServerRunner.handle_event)


def test_both_processes_of_a_job_ask_the_runner_that_is_deaf() -> None:
    for owner in (ServerEngine, ClientRunManager):
        assert "aux_runner.dispatch(topic=topic" in inspect.getsource(owner.dispatch)


def test_the_members_of_flare_that_this_rests_on() -> None:
    assert nvflare.__version__.startswith("2.9.")
    register = inspect.getsource(FederatedServer._register_cellnet_cbs)
    assert "REPORT_JOB_FAILURE" in register
    assert "cb=self.process_job_failure" in register
    assert "CLIENT_REGISTER_PROCESSED" in inspect.getsource(FederatedServer.register_client)
    assert list(inspect.signature(ServerEngine.notify_dead_job).parameters) == [
        *("self", "job_id", "client_name", "reason")
    ]
    assert list(inspect.signature(JobRunner.resolve_client_outcome).parameters) == [
        *("self", "job_id", "client_name")
    ]
    assert list(inspect.signature(JobRunner.update_abnormal_finished_jobs).parameters) == [
        *("self", "running_job_ids", "fl_ctx")
    ]
    assert "self.running_jobs" in inspect.getsource(JobRunner.__init__)
    assert "RunProcessKey.PARTICIPANTS" in inspect.getsource(ServerEngine._start_runner_process)
    assert "CLIENT_DISCONNECTED" in inspect.getsource(WFCommServer._check_dead_clients)
    assert "is None" in inspect.getsource(WFCommServer._do_process_submission)
