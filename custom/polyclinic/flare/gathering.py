"""One question to many sites, and their answers until it closes.

FLARE's broadcast closes when a fixed number of clients answered, errors included, and looks at its
tasks only every fifth of a second. A gathering instead sends every site a task of its own and
closes as soon as each site that is still alive has answered, or at the deadline.

Answers come through a short queue to the controller's thread, where they are checked and folded;
FLARE's lock, which every site's requests wait for, is held for the hand-over alone. The queue is
short so that answers waiting for the fold stay few: beyond it, the sender waits.
"""

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nvflare.apis.controller_spec import ClientTask, SendOrder, Task, TaskCompletionStatus
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

_WAITING = 2
_LOOK_S = 0.25


class Attendance:
    """Which sites FLARE or their silence has told us are gone; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gone: set[str] = set()

    def gone(self, site: str) -> None:
        """The site's job process is no more."""
        with self._lock:
            self._gone.add(site)

    def back(self, site: str) -> None:
        """The site was heard from."""
        with self._lock:
            self._gone.discard(site)

    @property
    def lost(self) -> frozenset[str]:
        """Sites that nobody waits for."""
        with self._lock:
            return frozenset(self._gone)


@dataclass
class Outcome:
    """How a gathering closed.

    Attributes:
        answered: seconds from the question to each site's answer.
        late: sites that took the question and did not answer by the deadline.
        absent: sites that never fetched the question.
        lost: sites whose job process is gone.
    """

    answered: dict[str, float] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Gathering:
    """One question.

    Args:
        controller: FLARE's controller, whose tasks these are.
        name: task name.
        questions: task data by site.
        deadline_s: seconds after which whoever has not answered is late.
        fetch_s: seconds in which a site must fetch its question, or it is not waited for.
        attendance: shared over the job.
    """

    def __init__(
        self,
        controller: Controller,
        name: str,
        questions: Mapping[str, Shareable],
        *,
        deadline_s: float,
        fetch_s: float,
        attendance: Attendance,
    ) -> None:
        self._controller, self._name, self._questions = controller, name, questions
        self._deadline_s, self._fetch_s, self._attendance = deadline_s, fetch_s, attendance
        self._answers: queue.Queue[tuple[str, Shareable]] = queue.Queue(_WAITING)
        self._closed = threading.Event()
        self._fetched: set[str] = set()
        self._received: set[str] = set()
        self._tasks: list[Task] = []
        self._start = 0.0
        self.outcome = Outcome()

    def answers(self, fl_ctx: FLContext, abort: Signal) -> Iterator[tuple[str, Shareable]]:
        """Answers in the order they come, until the gathering closes."""
        self._start = time.monotonic()
        for site, data in self._questions.items():
            self._send(site, data, fl_ctx)
        try:
            while not abort.triggered:
                try:
                    site, answer = self._answers.get(timeout=_LOOK_S if self._pending() else 0.0)
                except queue.Empty:
                    if not self._pending():
                        return
                    continue
                self.outcome.answered[site] = time.monotonic() - self._start
                yield site, answer
        finally:
            self._close(fl_ctx)

    def _send(self, site: str, data: Shareable, fl_ctx: FLContext) -> None:
        """Schedule one site's task."""
        task = Task(
            name=self._name,
            data=data,
            timeout=0,
            before_task_sent_cb=self._on_fetch,
            result_received_cb=self._on_answer,
        )
        self._tasks.append(task)
        self._controller.send(task, fl_ctx, targets=[site], send_order=SendOrder.ANY)

    def _pending(self) -> bool:
        """True while a site is worth waiting for, or an answer has not been handed out."""
        if len(self.outcome.answered) < len(self._received):
            return True
        waited = time.monotonic() - self._start
        if waited >= self._deadline_s:
            return False
        missing = set(self._questions) - self._received - self._attendance.lost
        if waited >= self._fetch_s:
            missing &= self._fetched
        return bool(missing)

    def _on_fetch(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """FLARE: a site takes its task."""
        self._fetched.add(client_task.client.name)
        self._attendance.back(client_task.client.name)

    def _on_answer(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """FLARE: a site's answer is there; the name is that of the authenticated client."""
        site, answer = client_task.client.name, client_task.result
        client_task.result = None
        if answer is None or self._closed.is_set():
            return
        self._received.add(site)
        self._attendance.back(site)
        while not self._closed.is_set():
            try:
                self._answers.put((site, answer), timeout=_LOOK_S)
                return
            except queue.Full:
                continue

    def _close(self, fl_ctx: FLContext) -> None:
        """Withdraw what was not answered and note why."""
        self._closed.set()
        for task in self._tasks:
            if task.completion_status is None:
                self._controller.cancel_task(task, TaskCompletionStatus.CANCELLED, fl_ctx)
        lost = self._attendance.lost
        for site in sorted(set(self._questions) - set(self.outcome.answered)):
            if site in lost:
                self.outcome.lost.append(site)
            elif site in self._fetched:
                self.outcome.late.append(site)
            else:
                self.outcome.absent.append(site)
