"""The site's socket in FLARE: every task of a job, answered by the child process.

FLARE's return codes are made here and nowhere else. An error is a reply without payload whose
header says the code, whose job it is and a sentence that may leave (``polyclinic.flare.words``);
the original is in the site's log, and a traceback in the file that the incident names.
"""

import math
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from polyclinic.errors import ContractViolation, PolyclinicError, SiteError
from polyclinic.exchange import Contract, TensorSpec, Update
from polyclinic.flare.audit import ROUND, RUN
from polyclinic.flare.child import TrainingProcess
from polyclinic.flare.convert import (
    ANCHOR,
    CENSUS,
    ERROR,
    EVALUATE,
    FINALISE,
    TRAIN,
    WAYS,
    is_number,
    read_task,
    reply,
)
from polyclinic.flare.endurance import deaf_to_parties
from polyclinic.flare.personal import PersonalStore
from polyclinic.flare.runbook import LATEST
from polyclinic.flare.site import (
    CONTRACT,
    Site,
    answering,
    client_spec,
    find_site,
    participants,
    require_company,
)
from polyclinic.flare.words import leaving_words
from polyclinic.worker.frame import Message, joined

MODALITIES = "polyclinic.modalities"
SPLITS = ("validation", "test")
CLOCK = {CENSUS: "load", TRAIN: "train", ANCHOR: "train", FINALISE: "train", EVALUATE: "evaluate"}
KEEPING = (TRAIN, ANCHOR, FINALISE)  # their answers change what the site remembers


class SiteExecutor(Executor):
    """Answers the tasks of a polyclinic job.

    Args:
        client: the algorithm's client half, ``{"path", "args"}``; with ``"config_type": "dict"``
            FLARE leaves it to the training process to build, and stays without torch.
        run: lineage id under which personal state is kept; "" is this job's own id, "latest" the
            run that the server continues.

    Raises:
        StudyError: ``client`` is no class under ``polyclinic.algorithms``.
    """

    def __init__(self, client: Any, run: str = "") -> None:
        super().__init__()
        self.client = client_spec(client)
        self.run = run
        self.site: Site | None = None
        self.child: TrainingProcess | None = None
        self.store: PersonalStore | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Warm the child before the first task, and end it with the run."""
        if event_type == EventType.START_RUN:
            deaf_to_parties(fl_ctx)
            try:
                site, child = self._ready(fl_ctx)
                child.start()
                fl_ctx.set_prop(MODALITIES, list(site.held), private=False, sticky=True)
            except PolyclinicError as error:
                # Every task will say it again, to those who can act on it.
                self.log_error(fl_ctx, str(error), fire_event=False)
        elif event_type == EventType.END_RUN:
            if self.child is not None:
                self.child.end()
            if self.store is not None:
                self.store.release()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """The reply to a task; never an exception, and never a code that aborts the job."""
        try:
            return self._reply(task_name, shareable, fl_ctx, abort_signal)
        except PolyclinicError as error:
            head = {"code": error.code, "owner": error.owner, "message": str(error)}
            return self._error(head, fl_ctx, isinstance(error, ContractViolation))
        except Exception as error:
            kind = type(error).__name__
            head = {"code": "exception", "owner": "site IT", "message": f"{kind} in the executor."}
            return self._error(head, fl_ctx, False)

    def _reply(
        self, task: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        site, child = self._ready(fl_ctx)
        require_company(site.settings, participants(fl_ctx))
        scalars = {} if task == CENSUS else read_task(shareable)[1]
        present = answering(scalars)
        if present is not None:
            require_company(site.settings, present)
        run = self._run(task, scalars, fl_ctx)
        store = self._store(site, run)
        if task in KEEPING:
            store.claim()
        request, patience = self._request(task, shareable, store)
        # For the egress filter, which gets this context too and writes them into its audit.
        fl_ctx.set_prop(RUN, run, private=True, sticky=False)
        fl_ctx.set_prop(ROUND, request.head.get("t", 0), private=True, sticky=False)
        answer = child.ask(request, lambda: bool(abort_signal.triggered), patience)
        if not answer.head["ok"]:
            return self._error(answer.head, fl_ctx, answer.head["code"] == ContractViolation.code)
        if task in KEEPING:
            store.save(answer.part("personal"), request.head["t"])
        if task in WAYS:
            fl_ctx.set_prop(CONTRACT, _contract(answer.head), private=True, sticky=False)
        update = Update(answer.part("update"), answer.head["scalars"])
        seconds = {f"seconds/{CLOCK[task]}": answer.head["seconds"]}
        return reply(update, answer.head["metrics"] | seconds)

    def _run(self, task: str, scalars: dict[str, Any], fl_ctx: FLContext) -> str:
        """The run whose personal state counts; with ``latest`` the server says which that is.

        Raises:
            SiteError: the server works on another run than the job's client half names.
        """
        named = scalars.get("run")
        if self.run == LATEST:
            return LATEST if task == CENSUS else str(named or "")
        run = self.run or str(fl_ctx.get_job_id())
        if named is not None and named != run:
            raise SiteError(
                expected="one run for both halves of the job",
                got="another one at the server than in config_fed_client.json",
                remedy="name the same 'run' in both",
                owner="researcher",
            )
        return run

    def _store(self, site: Site, run: str) -> PersonalStore:
        """The run's personal state, kept over tasks because it holds the run's lock."""
        origin = {"study": site.study.fingerprint(), "client": str(self.client["path"])}
        store = PersonalStore(Path(site.settings.storage), run, origin)
        if self.store is not None and self.store.folder == store.folder:
            return self.store
        if self.store is not None:
            self.store.release()
        self.store = store
        return store

    def _request(
        self, task: str, shareable: Shareable, store: PersonalStore
    ) -> tuple[Message, float]:
        """The task as the child reads it, and the seconds until the server closes it."""
        if task == CENSUS:
            return Message({"do": task}), math.inf
        state, scalars = read_task(shareable)
        t = state.round + 1 if task == TRAIN else state.round
        head = {"do": task, "round": state.round, "t": t}
        if task == EVALUATE:
            asked = scalars.get("splits") or SPLITS
            head["splits"] = [s for s in SPLITS if s in asked]
        # What a late answer could have done is lost anyway; a hung child must not cost the next.
        deadline: Any = scalars.get("deadline")
        patience = float(deadline) if is_number(deadline) and deadline > 0 else math.inf
        # The anchor step of a round belongs to it: asked again, it starts from what was before.
        personal = store.load(state.round if task == ANCHOR else state.round + 1)
        return Message(head, joined(state=state.tensors, personal=personal)), patience

    def _ready(self, fl_ctx: FLContext) -> tuple[Site, TrainingProcess]:
        """Site and child, made once."""
        if self.site is None or self.child is None:
            self.site = find_site(fl_ctx)
            self.child = TrainingProcess(self.site.settings, self.site.study, self.client)
        return self.site, self.child

    def _error(self, head: dict[str, Any], fl_ctx: FLContext, refused: bool) -> Shareable:
        """A reply without payload."""
        self.log_error(fl_ctx, f"{head['code']}: {head['message']}", fire_event=False)
        code = ReturnCode.BAD_TASK_DATA if refused else ReturnCode.EXECUTION_EXCEPTION
        return make_reply(code, headers={ERROR: leaving_words(head)})


def _contract(head: dict[str, Any]) -> Contract:
    """The contract as the training process states it; JSON has no tuples."""
    specs: dict[str, TensorSpec] = {}
    for name, said in head["contract"].items():
        tuples = {key: tuple(said[key]) for key in ("shape", "ways")}
        specs[name] = TensorSpec(**{**said, **tuples})
    return Contract(specs)
