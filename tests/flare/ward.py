"""The real FLARE task communicator with sites that are threads, so a whole run takes a second.

Only the engine is a stand-in. ``Ward`` starts ``Rounds`` on FLARE's ``WFCommServer`` and lets every
site fetch and answer tasks as the server runner would let it.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.impl.wf_comm_server import WFCommServer
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace

from flare.counting import HELD, STUDY
from polyclinic.exchange import Update
from polyclinic.flare.controller import Rounds
from polyclinic.flare.convert import CENSUS, TRAIN, read_task, reply
from polyclinic.ledger import Record, read_ledger
from polyclinic.study import parse_study

Answer = Callable[[str, Shareable], Shareable | None]
FINGERPRINT = parse_study(STUDY).fingerprint()


def plus_one(site: str) -> Answer:
    """A site that does what it should."""

    def answer(task: str, data: Shareable) -> Shareable | None:
        if task == CENSUS:
            facts = {"modalities": HELD[site], "fingerprint": FINGERPRINT, "n": 20.0}
            return reply(Update({}, facts))
        state, scalars = read_task(data)
        if task != TRAIN:
            return reply(Update({}, {}), {"test/auroc": 0.5})
        tensors = {n: np.ones(a.shape, np.float32) for n, a in state.tensors.items()}
        return reply(Update(tensors, {"n": 20.0, "t": float(scalars["t"])}), {"train/loss": 0.5})

    return answer


def failing(site: str, rounds: set[int], how: Callable[[Shareable], Shareable | None]) -> Answer:
    """A site that answers some rounds of training with ``how`` of its good answer."""
    good = plus_one(site)

    def answer(task: str, data: Shareable) -> Shareable | None:
        answer_ = good(task, data)
        if task == TRAIN and read_task(data)[1]["t"] in rounds and answer_ is not None:
            return how(answer_)
        return answer_

    return answer


def error(_: Shareable) -> Shareable:
    """How: FLARE's error reply."""
    return make_reply(ReturnCode.EXECUTION_EXCEPTION)


def silence(_: Shareable) -> None:
    """How: no answer at all."""


class _Engine:
    def __init__(self, ward: "Ward") -> None:
        self._ward = ward
        self.handlers: list[FLComponent] = []
        self.listeners: list[FLComponent] = []
        self._contexts = FLContextManager(
            engine=self,
            identity_name="server",
            job_id="job-1",
            public_stickers={},
            private_stickers={FLContextKey.JOB_META: {JobMetaKey.JOB_ID: "job-1"}},
        )

    def get_clients(self) -> list[Client]:
        return [Client(name, f"token-{name}") for name in self._ward.sites]

    def get_workspace(self) -> Workspace:
        return self._ward.workspace

    def new_context(self) -> FLContext:
        return self._contexts.new_context()

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        fl_ctx.set_prop(FLContextKey.EVENT_ID, "e", private=True, sticky=False)
        if event_type == EventType.FATAL_SYSTEM_ERROR:
            self._ward.panics.append(str(fl_ctx.get_prop(FLContextKey.EVENT_DATA)))
        for handler in [*self.handlers, *self.listeners]:
            handler.handle_event(event_type, fl_ctx)


class Ward:
    """A server and its sites for one job.

    Args:
        folder: of the server's workspace.
        sites: how each site answers.
        job: FLARE's job id.
    """

    def __init__(self, folder: Path, sites: Mapping[str, Answer], job: str = "job-1") -> None:
        self.folder, self.sites, self.job = folder, dict(sites), job
        for name in ("startup", "local", f"{job}/app_server/config"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        study = folder / job / "app_server" / "config" / "study.json"
        study.write_text(json.dumps(STUDY), encoding="utf-8")
        self.workspace = Workspace(str(folder), site_name="server")
        self.panics: list[str] = []
        self.dead: set[str] = set()
        self.abort = Signal()
        self.engine = _Engine(self)
        self.communicator = WFCommServer()

    def run(self, rounds: Rounds) -> list[Record]:
        """The ledger after the job; [] when it did not come to one."""
        self.engine.handlers = [self.communicator, rounds]
        rounds.set_communicator(self.communicator)
        with self.engine.new_context() as fl_ctx:
            fl_ctx.set_prop(ReservedKey.RUN_NUM, self.job, private=False, sticky=True)
            self.communicator.initialize_run(fl_ctx)
            rounds.initialize(fl_ctx)
            self._over = threading.Event()
            threads = [threading.Thread(target=self._live, args=(s,)) for s in self.sites]
            for thread in threads:
                thread.start()
            try:
                rounds.control_flow(self.abort, fl_ctx)
            finally:
                self._over.set()
                for thread in threads:
                    thread.join()
                self.communicator.finalize_run(fl_ctx)
                self.communicator._task_monitor.join()
        ledger = self.folder / self.job / "polyclinic" / "ledger.jsonl"
        return read_ledger(ledger) if ledger.exists() else []

    def _live(self, site: str) -> None:
        client = Client(site, f"token-{site}")
        done: set[str] = set()
        while not self._over.is_set() and site not in self.dead:
            with self.engine.new_context() as fl_ctx:
                name, task_id, data = self.communicator.process_task_request(client, fl_ctx)
            if name and task_id not in done:
                # FLARE hands a task out again until it is answered; a site works on it once.
                done.add(task_id)
                answer = self.sites[site](name, data)
                if answer is not None:
                    self.submit(site, name, task_id, answer)
            time.sleep(0.01)

    def submit(self, site: str, task: str, task_id: str, answer: Shareable) -> None:
        """An answer reaches the server, from the client that FLARE authenticated."""
        with self.engine.new_context() as fl_ctx:
            client = Client(site, f"token-{site}")
            self.communicator.process_submission(client, task, task_id, answer, fl_ctx)

    def tell(self, event_type: str, key: str, site: str) -> None:
        """FLARE fires an event about a site."""
        with self.engine.new_context() as fl_ctx:
            fl_ctx.set_prop(key, site)
            self.engine.fire_event(event_type, fl_ctx)


def of_kind(records: list[Record], kind: str) -> list[Record]:
    """The records of one kind."""
    return [r for r in records if r["kind"] == kind]


def plain(rounds: int, **args: Any) -> Rounds:
    """A counting job with short deadlines."""
    from flare.counting import CountingServer

    settings: dict[str, Any] = {
        "min_sites": 2,
        "round_deadline": 1.5,
        "fetch_deadline": 1.0,
        "census_deadline": 1.5,
    }
    return Rounds(CountingServer(), rounds, **(settings | args))
