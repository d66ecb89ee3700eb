"""Methods against each other on the same site folders, many repeats, several at a time."""

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from polyclinic.comparison.experiment import Plan, distinct_settings, open_sites, run_method
from polyclinic.data.cohort import Cohort
from polyclinic.errors import PolyclinicError, StudyError, place_of

Record = dict[str, Any]
Task = tuple[str, int]


@dataclass(frozen=True)
class Run:
    """One method, trained and scored once.

    Attributes:
        records: ``method``, ``site``, ``repeat``, ``test``, ``metric``, ``value``; none of a run
            that failed.
        reason: why it has none; "" of a run that ended well.
    """

    method: str
    repeat: int
    records: tuple[Record, ...] = ()
    seconds: float = 0.0
    reason: str = ""

    @property
    def task(self) -> Task:
        """Method and repeat."""
        return self.method, self.repeat


def run_plan(plan: Plan, advance: Callable[[int], None]) -> tuple[list[Record], list[Record]]:
    """All records, and the seconds of every run; ``advance(1)`` after each.

    Raises:
        PolyclinicError: a site that cannot take part, two of one name, or a run that failed.
    """
    done: dict[Task, Run] = {}
    for run in runs_of(plan, plan.tasks()):
        if run.reason:
            raise failed([run])
        done[run.task] = run
        advance(1)
    ordered = [done[task] for task in plan.tasks()]
    seconds = [{"method": r.method, "repeat": r.repeat, "seconds": r.seconds} for r in ordered]
    return [record for r in ordered for record in r.records], seconds


def failed(runs: Sequence[Run]) -> StudyError:
    """What to raise of runs of which none may fail."""
    first = runs[0]
    return StudyError(
        expected=f"runs that end, as of '{first.method}'",
        got=f"{len(runs)} that failed, the first with '{first.reason}'",
        remedy="mend what that says",
    )


def runs_of(plan: Plan, tasks: Sequence[Task]) -> Iterator[Run]:
    """These runs of a plan as they end; one that fails says so and does not end the others.

    Every run has its own seeds and one thread, so the number of workers changes no figure.

    Raises:
        PolyclinicError: a site that cannot take part, two of one name, or a worker that was killed.
    """
    distinct_settings(plan.sites)
    if plan.workers == 1:
        _start(plan)
        yield from (_run(*task) for task in tasks)
    else:
        yield from _in_workers(plan, tasks)


@dataclass
class _Worker:
    """What a worker process holds between runs."""

    plan: Plan
    cohorts: dict[str, Cohort]

    def run(self, name: str, repeat: int) -> Run:
        start = time.perf_counter()
        try:
            records = self._records(name, repeat)
        except PolyclinicError as error:
            return Run(name, repeat, reason=str(error))
        except Exception as error:
            # A fault of ours, or no memory: nothing that the other runs should pay for. Its text
            # could name a patient.
            return Run(name, repeat, reason=f"{type(error).__name__} in {place_of(error)}")
        return Run(name, repeat, tuple(records), time.perf_counter() - start)

    def _records(self, name: str, repeat: int) -> list[Record]:
        plan = self.plan
        method, seed = plan.methods[name], plan.seed + repeat
        found = run_method(
            self.cohorts,
            plan.study,
            method,
            plan.rounds,
            seed,
            plan.scored,
            plan.missing,
            plan.pooled,
        )
        records: list[Record] = []
        for site, test, values in found:
            head = {"method": name, "site": site, "repeat": repeat, "test": test}
            told = {k: v for k, v in values.items() if k != "n" and math.isfinite(v)}
            records += [head | {"metric": k, "value": v} for k, v in told.items()]
        return records


_worker: _Worker | PolyclinicError | None = None


def _start(plan: Plan) -> None:
    """Prepare a worker process: one thread each, cohorts read once.

    An error is kept for the first run: raised here it would only break the pool.
    """
    global _worker
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        _worker = _Worker(plan, open_sites(plan))
    except PolyclinicError as error:
        _worker = error


def _end_with(parent: int) -> None:
    """Leave when the process that started this one has: nobody is left to hear the result."""
    multiprocessing.connection.wait([parent])
    os._exit(1)


def _run(name: str, repeat: int) -> Run:
    if isinstance(_worker, PolyclinicError):
        raise _worker
    if _worker is None:
        raise RuntimeError("Expected a started worker.")
    return _worker.run(name, repeat)


def _in_workers(plan: Plan, tasks: Sequence[Task]) -> Iterator[Run]:
    """Runs as they end; an interrupt ends the workers at once."""
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(plan.workers, context, _start, (plan,))
    try:
        with _workers_deaf_to_interrupts():
            futures: list[Future[Run]] = [pool.submit(_run, *task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise StudyError(
            expected="workers that run to their end",
            got="one that the system ended, most likely for want of memory",
            remedy="go on with --resume and --workers 1",
        ) from None
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    pool.shutdown()


@contextlib.contextmanager
def _workers_deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C: the parent hears it, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a signal's handler
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
