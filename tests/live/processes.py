"""Processes that run from a folder, found by their command line and ended by their id."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

_JOB_MODULES = ("worker_process", "runner_process", "polyclinic.worker")


def processes_below(folder: Path) -> list[int]:
    """Ids of the live processes that name a folder, and of their children."""
    found: dict[int, None] = {}
    for process in psutil.process_iter():
        try:
            if any(str(folder) in part for part in process.cmdline()) and _lives(process):
                found[process.pid] = None
                found |= {c.pid: None for c in process.children(recursive=True) if _lives(c)}
        except psutil.Error:
            continue
    return list(found)


def is_job(pid: int) -> bool:
    """True for a process of a job, or for its training process; False for a parent."""
    try:
        line = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
    return any(module in line for module in _JOB_MODULES)


def end_all(folder: Path, seconds: float = 5) -> None:
    """End the processes that run from a folder: asked first, then made to."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_below(folder):
            quietly(lambda pid=pid, sign=sign: os.kill(pid, sign))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and processes_below(folder):
            time.sleep(0.1)


def quietly(act: Callable[[], Any]) -> None:
    """Do it if it can still be done: the process or the server may be gone, which is the aim."""
    with contextlib.suppress(Exception):
        act()


def _lives(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE
