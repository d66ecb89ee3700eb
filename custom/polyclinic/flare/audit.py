"""The site's own record of every reply: a line in ``<storage>/egress.jsonl``, or nothing leaves.

A line says when, for which job, task, run and round, how many tensors and bytes of which groups,
and the verdict: ``sent``, ``refused`` or ``error``, the last two with a reason code. It holds
counts and names of the contract, nothing about a patient. The file is the owner's alone (0600)
and a ``polyclinic.ledger``: on disk before the reply goes, each line with the hash of the last.

Several jobs of a site may write at once; a lock on the file makes them take turns.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext

from polyclinic.errors import CheckpointError, SiteError
from polyclinic.exchange import group_of
from polyclinic.flare.site import own_settings
from polyclinic.ledger import Ledger

FILE = "egress.jsonl"
RUN, ROUND = "polyclinic.run", "polyclinic.round"  # what the executor leaves in FLARE's context

Verdict = Literal["sent", "refused", "error"]


class EgressAudit:
    """The writing end; reads the file again only when another job has written to it."""

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._size = 0

    def record(
        self,
        fl_ctx: FLContext,
        verdict: Verdict,
        code: str = "",
        tensors: dict[str, Any] | None = None,
    ) -> None:
        """Write one line; it is on disk when this returns.

        Raises:
            SiteError: the line cannot be written, or a line before it was changed.
        """
        path = Path(own_settings(fl_ctx).storage) / FILE
        line = _line(fl_ctx, verdict, code, tensors or {})
        try:
            with _locked(path):
                if self._ledger is None or path != self._ledger.path or self._grown(path):
                    self._ledger = Ledger(path)
                self._ledger.append(line)
                self._size = path.stat().st_size
        except (OSError, CheckpointError) as error:
            self._ledger = None
            raise SiteError(
                expected=f"room for a line in the site's {FILE}, and no line of it changed",
                got=error.got if isinstance(error, CheckpointError) else type(error).__name__,
                remedy="free space or mend the permissions; a file that was changed is evidence: "
                "move it, with its .head, to where audits are kept. Nothing leaves until then",
            ) from None

    def _grown(self, path: Path) -> bool:
        return path.stat().st_size != self._size


def _line(
    fl_ctx: FLContext, verdict: Verdict, code: str, tensors: dict[str, Any]
) -> dict[str, Any]:
    arrays = {n: a for n, a in tensors.items() if isinstance(a, np.ndarray)}
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "job": str(fl_ctx.get_job_id()),
        "task": str(fl_ctx.get_prop(FLContextKey.TASK_NAME)),
        "run": str(fl_ctx.get_prop(RUN) or ""),
        "round": int(fl_ctx.get_prop(ROUND) or 0),
        "verdict": verdict,
        "code": code,
        "tensors": len(arrays),
        "bytes": sum(a.nbytes for a in arrays.values()),
        "groups": sorted({group_of(n) for n in arrays}),
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The file, made if need be for its owner alone, and nobody else writing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
