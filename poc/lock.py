"""One demo at a time in a workspace: a second one would stop and remove the first."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polyclinic.errors import StudyError

NAME = ".lock"


@contextmanager
def held(workspace: Path) -> Iterator[None]:
    """Hold the workspace, which is made when there is none, and let it go whatever happens.

    The lock is the kernel's, on a file that holds our process id: a process that was killed no
    longer has it, so a file that it left behind stops nobody.

    Raises:
        StudyError: another process holds it.
    """
    lock = _taken(workspace)
    try:
        yield
    finally:
        # The name goes before the lock does: whoever opened the old file sees that it is gone.
        with suppress(OSError):
            (workspace / NAME).unlink()
            workspace.rmdir()  # of an empty workspace nothing stays
        os.close(lock)


def _taken(workspace: Path) -> int:
    """Descriptor of the locked file; programs that we start do not inherit it."""
    path = workspace / NAME
    while True:
        workspace.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the one before us removed the folder just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(lock, 20).decode(errors="replace").strip()
            os.close(lock)
            raise StudyError(
                expected=f"no other demo in {workspace.name}",
                got=f"one running (pid {pid or 'unknown'})",
                remedy="wait, or set POLYCLINIC_POC_WORKSPACE",
                owner="you",
            ) from None
        if _is(lock, path):
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
            return lock
        os.close(lock)


def _is(lock: int, path: Path) -> bool:
    """Whether the name still belongs to the file that we locked."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False
