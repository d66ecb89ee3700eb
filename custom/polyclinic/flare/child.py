"""The parent's end of the training process: start, ask, lose, restart.

An out-of-memory kill costs a reply, not the job; a process that hangs is killed at the site's
deadline or when FLARE aborts the run.
"""

import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import polyclinic
from polyclinic.errors import SiteError
from polyclinic.settings import SiteSettings
from polyclinic.study import Study
from polyclinic.worker.frame import Message, receive, send

# The child runs the very package that this process runs, also when a job brought it along; -P and
# appending keep the working directory and that folder from standing before Python's own modules.
PACKAGE = str(Path(polyclinic.__file__).parents[1])
BOOT = f"import sys; sys.path.append({PACKAGE!r}); import polyclinic.worker.__main__ as w; w.main()"
COMMAND = (sys.executable, "-P", "-c", BOOT)
LOG_BYTES = 5_000_000
POLL_SECONDS = 0.2


class WorkerLost(SiteError):
    """The training process ended in the middle of a task; the next task gets a new one."""

    code = "worker_lost"


class WorkerTimeout(SiteError):
    """The training process took longer than the site allows, and was killed."""

    code = "worker_timeout"


class TaskAborted(SiteError):
    """FLARE aborted the task; the training process was killed."""

    code = "aborted"


class Outbox:
    """Writes messages in order from a thread of its own.

    A hung child reads nothing and a large message would block the sender, who must still hear an
    abort. A dead child shows itself to the reader; the writer has nothing to add.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.put = self.messages.put
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Stop; returns when the thread is gone, which a dead reader makes prompt."""
        self.put(None)
        self.thread.join()

    def _write(self) -> None:
        with suppress(OSError):
            while (message := self.messages.get()) is not None:
                send(self.connection, message)


class TrainingProcess:
    """One warm child; ``ask`` starts it when it is not running.

    Args:
        settings: the site's; ``threads``, ``storage`` and ``max_train_seconds`` are used here.
        study: what the cohort is opened for.
        client: ``{"path", "args"}`` of the client half.
        command: program that serves a socket, given the descriptor and this process's id;
            empty for ``COMMAND``.
    """

    def __init__(
        self,
        settings: SiteSettings,
        study: Study,
        client: dict[str, Any],
        command: Sequence[str] = (),
    ) -> None:
        self.settings, self.study, self.client = settings, study, client
        self.command = tuple(command) or COMMAND
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.outbox: Outbox | None = None
        self.ended = False

    @property
    def alive(self) -> bool:
        """Whether a child is running."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start a child and let it open the cohort while nobody waits."""
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs, self._log() as log:
            self.process = subprocess.Popen(
                # The folder is for whoever reads ``ps``: which site a process belongs to.
                [*self.command, str(theirs.fileno()), str(os.getpid()), self.settings.storage],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": str(self.settings.threads)},
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self.outbox = Outbox(self.connection)
        head = {
            "do": "open",
            "settings": self.settings.model_dump(mode="json"),
            "study": self.study.model_dump(mode="json"),
            "client": self.client,
        }
        self.outbox.put(Message(head))

    def ask(
        self, request: Message, aborted: Callable[[], bool], seconds: float = math.inf
    ) -> Message:
        """The child's reply.

        Args:
            request: a task.
            aborted: asked several times a second whether to give up.
            seconds: after which nobody wants the reply; the site's own limit holds as well.

        Raises:
            WorkerLost: the child died; another one is warming up.
            WorkerTimeout: it took too long and was killed; another one is warming up.
            TaskAborted: ``aborted()`` became true; the child is gone.
        """
        if not self.alive:
            self.start()
        connection, outbox = self.connection, self.outbox
        if connection is None or outbox is None:  # the run has ended meanwhile
            raise self._lost()
        limit = min(seconds, self.settings.max_train_seconds)
        outbox.put(request)
        try:
            self._wait(connection, aborted, limit)
            return receive(connection)
        except TaskAborted:
            self.stop()
            raise
        except (EOFError, OSError):
            error: SiteError = self._lost()
        except WorkerTimeout as late:
            error = late
        if not self.ended:
            self.start()
        raise error

    def _wait(self, connection: Connection, aborted: Callable[[], bool], limit: float) -> None:
        """Return when there is something to read."""
        deadline = time.monotonic() + limit
        while not connection.poll(POLL_SECONDS):
            if aborted():
                raise TaskAborted(expected="a run", got="an abort", remedy="submit again")
            if time.monotonic() > deadline:
                raise WorkerTimeout(
                    expected=f"an answer within {limit:g} seconds",
                    got="none",
                    remedy="raise max_train_seconds or the job's round_deadline, or train less",
                )

    def end(self) -> None:
        """Stop for good: the run is over."""
        self.ended = True
        self.stop()

    def stop(self) -> None:
        """Close the socket and end the child; returns when it is gone."""
        process, self.process = self.process, None
        connection, self.connection = self.connection, None
        outbox, self.outbox = self.outbox, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()
        if connection is not None and outbox is not None:
            outbox.end()
            with suppress(OSError):
                connection.close()

    def _log(self) -> Any:
        """The site's private file for whatever the child prints."""
        folder = Path(self.settings.storage)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / "worker.log"
        fresh = os.O_TRUNC if path.exists() and path.stat().st_size > LOG_BYTES else os.O_APPEND
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | fresh, 0o600), "wb")

    def _lost(self) -> WorkerLost:
        code = self.process.wait(timeout=5) if self.process else 0
        self.stop()
        cause = f"signal {-code}" if code < 0 else f"exit status {code}"
        hint = (
            "free memory or lower the batch size" if code == -signal.SIGKILL else "see worker.log"
        )
        return WorkerLost(
            expected="the training process to answer", got=f"its end by {cause}", remedy=hint
        )
