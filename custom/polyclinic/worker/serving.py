"""The loop of the training process: one request, one reply, and no exception's text among them.

What a client prints, and the text of any exception that is not a ``PolyclinicError``, stays in
files at the site.
"""

import contextlib
import importlib
import os
import secrets
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from polyclinic.errors import DataError, PolyclinicError
from polyclinic.settings import SiteSettings
from polyclinic.study import Study
from polyclinic.worker.desk import Desk, build_client
from polyclinic.worker.frame import Message, receive, send


def record_incident(folder: Path) -> str:
    """Id of a file at the site that holds the traceback of the exception being handled."""
    incident = secrets.token_hex(6)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{incident}.txt"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(traceback.format_exc())
    return incident


def error_head(error: Exception, incidents: Path) -> dict[str, Any]:
    """What FLARE's process is told of an error, for the site's log and for what may leave.

    A ``PolyclinicError`` comes whole, with an incident when it is about data, whose sentence will
    not leave; of others class and incident.
    """
    if isinstance(error, PolyclinicError):
        head = {"ok": False, "code": error.code, "owner": error.owner, "message": str(error)}
        about_data = isinstance(error, DataError)
        return head | ({"incident": record_incident(incidents)} if about_data else {})
    incident = record_incident(incidents)
    return {
        "ok": False,
        "code": "exception",
        "owner": "site IT",
        "message": f"{type(error).__name__}; its text stayed at the site.",
        "incident": incident,
    }


class Serving:
    """Answers requests one by one; the desk (cohort and client) is opened once and kept.

    Args:
        connection: to FLARE's process.
        ahead: modules to import before the first task asks for them.
    """

    def __init__(self, connection: Connection, ahead: Sequence[str] = ()) -> None:
        self.connection = connection
        self.ahead = tuple(ahead)
        self.desk: Desk | None = None
        self.opening: dict[str, Any] = {}

    def run(self) -> None:
        """Serve until the parent closes its end."""
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while True:
                request = receive(self.connection)
                if request.head["do"] == "open":
                    self._warm(request.head)
                else:
                    send(self.connection, self._answer(request))

    def _warm(self, head: dict[str, Any]) -> None:
        """Open ahead of the first task; an error waits for the task that needs the desk."""
        self.opening = head
        with contextlib.suppress(Exception):
            self._open()
        for name in self.ahead:
            importlib.import_module(name)

    def _open(self) -> Desk:
        if self.desk is None:
            settings = SiteSettings.model_validate(self.opening["settings"])
            study = Study.model_validate(self.opening["study"])
            self.desk = Desk.open(settings, study, build_client(self.opening["client"]))
        return self.desk

    def _answer(self, request: Message) -> Message:
        started = time.monotonic()
        try:
            reply = self._open().answer(request)
        except Exception as error:
            storage = Path(self.opening["settings"]["storage"])
            return Message(error_head(error, storage / "incidents"))
        head = {"ok": True, "seconds": time.monotonic() - started, **reply.head}
        return Message(head, reply.tensors)
