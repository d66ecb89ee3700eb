"""Personal state on the site's disk: what a site must remember between rounds and never sends.

``<storage>/personal/<run>/round_<t>.safetensors``, and ``latest.json`` with the SHA-256 of the
rounds kept. Only the owner of the process may read them. A file that is torn or altered is passed
over for the round before it.

A job names the run it continues, and any job can name any run. So ``latest.json`` also says of
which study and algorithm the state is, and a job of another one is refused, with nothing changed.
One job at a time writes to a run: it holds ``<storage>/locks/<run>`` as long as it lives.
"""

import fcntl
import json
import os
import re
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from polyclinic.errors import CheckpointError, SiteError
from polyclinic.exchange import Tensors
from polyclinic.storage import load_tensors, remove_leftovers, save_tensors, write_atomic

KEEP = 2
PATIENCE_SECONDS = 10.0  # a job that was just aborted needs a moment to end
RUN = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class PersonalStore:
    """Rounds of one run at one site.

    Args:
        storage: the site's storage folder.
        run: lineage id; a resumed job carries the first job's.
        origin: whose state it is: the study's fingerprint and the client half's path.

    Raises:
        CheckpointError: ``run`` cannot be a folder name.
    """

    def __init__(self, storage: Path, run: str, origin: Mapping[str, str] | None = None) -> None:
        if not RUN.fullmatch(run):
            raise CheckpointError(
                expected="a run id of letters, digits, '.', '_' and '-'",
                got=f"{len(run)} characters with others among them",
                remedy="correct 'run' in config_fed_client.json",
                owner="researcher",
            )
        self.folder = storage / "personal" / run
        self.origin = dict(origin or {})
        self._lock_path = storage / "locks" / run
        self._held: weakref.finalize[..., PersonalStore] | None = None

    def claim(self) -> None:
        """Be the only one that writes to this run, until ``release`` or the end of this object.

        Raises:
            SiteError: another job has it, or the lock cannot be made.
        """
        if self._held is not None and self._held.alive:
            return
        try:
            self._lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            descriptor = os.open(self._lock_path, flags, 0o600)
        except OSError as error:
            raise SiteError(
                expected="a storage folder that can be written",
                got=type(error).__name__,
                remedy="free space or mend the permissions",
            ) from None
        held = weakref.finalize(self, os.close, descriptor)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                held()
                raise SiteError(
                    expected="one job at a time on a run",
                    got="another job that is working on it at this site",
                    remedy="wait for that job or abort it",
                    owner="researcher",
                )
            time.sleep(0.1)
        self._held = held

    def release(self) -> None:
        """Let another job write to this run."""
        if self._held is not None:
            self._held()

    def save(self, tensors: Tensors, t: int) -> None:
        """Keep the tensors of round ``t``; rounds after it, and all but the last two, go.

        Raises:
            SiteError: the run is another study's or algorithm's, or another job works on it.
            CheckpointError: the storage cannot be written.
        """
        self.claim()
        recorded = self._sums()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        sums = {r: s for r, s in recorded.items() if r < t}
        sums[t] = save_tensors(self._path(t), tensors)
        kept = dict(sorted(sums.items())[-KEEP:])
        latest: dict[str, object] = {"latest": t, "origin": self.origin}
        latest["sha256"] = {str(r): s for r, s in kept.items()}
        write_atomic(self.folder / "latest.json", json.dumps(latest).encode())
        for path in self.folder.glob("round_*.safetensors"):
            if path not in {self._path(r) for r in kept}:
                path.unlink(missing_ok=True)

    def load(self, before: int) -> Tensors:
        """The newest tensors of a round before this one, empty when there is none.

        A site that was away for some rounds continues with what it had.

        Raises:
            SiteError: the run is another study's or algorithm's.
            CheckpointError: there are such rounds, and all of them are torn or altered.
        """
        sums = self._sums()
        rounds = [r for r in sorted(sums, reverse=True) if r < before]
        for r in rounds:
            with suppress(CheckpointError):
                return load_tensors(self._path(r), sums[r])
        if rounds:
            raise _unusable(f"{len(rounds)} torn or altered file(s)")
        return {}

    def _path(self, t: int) -> Path:
        return self.folder / f"round_{t}.safetensors"

    def _sums(self) -> dict[int, str]:
        path = self.folder / "latest.json"
        if not path.exists():
            return {}
        try:
            recorded = json.loads(path.read_text(encoding="utf-8"))
            origin = recorded["origin"]
            sums = {int(r): str(s) for r, s in recorded["sha256"].items()}
        except (ValueError, KeyError, AttributeError, TypeError, OSError):
            raise _unusable("a torn or altered latest.json") from None
        if origin != self.origin:
            raise SiteError(
                expected="a run of this study and algorithm",
                got="one of another, which stays as it is",
                remedy="correct 'run' in config_fed_client.json",
                owner="researcher",
            )
        return sums


def _locked(descriptor: int) -> bool:
    """Whether the file is ours alone now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unusable(got: str) -> CheckpointError:
    return CheckpointError(
        expected="personal state as this site wrote it",
        got=got,
        remedy="restore the storage folder, or remove this run's part of it to start anew",
    )
