"""Methods against each other on the same site folders, many repeats, several at a time."""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from polyclinic.algorithms import presets
from polyclinic.algorithms.base import Client, Server
from polyclinic.algorithms.presets import Method
from polyclinic.anchor_site import elected
from polyclinic.comparison.federation import run_federation
from polyclinic.comparison.missing import Missing
from polyclinic.data.batch import Patients, SplitName
from polyclinic.data.cohort import Cohort, merge, open_cohort
from polyclinic.errors import PolyclinicError, StudyError
from polyclinic.evaluation.metrics import scores_of
from polyclinic.exchange import State, Tensors
from polyclinic.models.weights import weights_at
from polyclinic.settings import SiteSettings, load_settings
from polyclinic.study import Study

SETTINGS_FILE = "polyclinic.yaml"
Record = dict[str, Any]
Trained = tuple[State, Tensors]


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        sites: folders with a ``polyclinic.yaml``.
        methods: by name.
        seed: repeat r splits the patients and draws the weights by ``seed + r``.
        scored: patients that are scored; choices are made on ``validation``, never on ``test``.
        missing: what is hidden, besides, from the patients that are scored.
        pooled: score every site's model on all sites' patients, too.
    """

    sites: tuple[Path, ...]
    study: Study
    methods: dict[str, Method]
    repeats: int
    rounds: int
    seed: int
    workers: int = 2
    scored: SplitName = "test"
    missing: Missing | None = None
    pooled: bool = True

    def tasks(self) -> list[tuple[str, int]]:
        """Method and repeat of every run."""
        return [(m, r) for r in range(self.repeats) for m in self.methods]


def site_folders(given: Sequence[Path]) -> tuple[Path, ...]:
    """The site folders among these, and inside those that hold site folders.

    Raises:
        StudyError: a folder without any, or the same one twice.
    """
    found: list[Path] = []
    for folder in given:
        inside = sorted(p.parent for p in folder.glob(f"*/{SETTINGS_FILE}"))
        here = [folder] if (folder / SETTINGS_FILE).is_file() else inside
        if not here:
            raise StudyError(
                expected=f"a folder with {SETTINGS_FILE}",
                got=f"'{folder.name}' without one",
                remedy="name the site folders, or a folder that holds them",
            )
        found += here
    if len({p.resolve() for p in found}) != len(found):
        raise StudyError(expected="different sites", got="one twice", remedy="name each site once")
    return tuple(found)


def distinct_settings(folders: Sequence[Path]) -> list[SiteSettings]:
    """The settings of the sites.

    Raises:
        PolyclinicError: a file that cannot be read, or two sites of one name.
    """
    found = [load_settings(p / SETTINGS_FILE) for p in folders]
    if len({s.site for s in found}) != len(found):
        raise StudyError(
            expected="different site names",
            got="one twice",
            remedy=f"correct 'site' in {SETTINGS_FILE}",
        )
    return found


def open_sites(plan: Plan) -> dict[str, Cohort]:
    """The cohorts of all sites, by site name in order.

    Raises:
        PolyclinicError: a site that cannot take part, or two of one name.
    """
    opened = [open_cohort(s, plan.study) for s in distinct_settings(plan.sites)]
    return {c.site: c for c in sorted(opened, key=lambda c: c.site)}


def run_method(
    cohorts: dict[str, Cohort],
    study: Study,
    method: Method,
    rounds: int,
    seed: int,
    scored: SplitName = "test",
    missing: Missing | None = None,
    pooled: bool = True,
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Train one method once; site, test (``own`` or ``pooled``) and scores.

    ``pooled``: all sites' scored patients, restricted to the site's modalities, with the
    evaluation-only ones readable, unless it is left out. ``missing`` adds both with patients'
    modalities hidden.
    """
    rounds = method.rounds(rounds)
    drawn = method.adapted(study.model_copy(update={"seed": seed}))
    sites = {s: replace(c, study=drawn).resplit(seed) for s, c in cohorts.items()}
    client, server = method.halves()
    # The file is the one that the study's hash names, whoever brings it.
    places = {n: place for c in sites.values() for n, place in c.settings.weights.items()}
    with weights_at(places):
        trained = _pooled(sites, client, server, drawn, rounds, method) if method.pool else None
        if trained is None:
            result = run_federation(
                sites, client, server, drawn, rounds, anchor=anchor_of(sites, study)
            )
            trained = {
                s: (_slice(server, drawn, p, result.state), result.personal[s])
                for s, p in sites.items()
            }
    whole = [c.with_evaluation_only() for c in sites.values()]
    for site, patients in sites.items():
        tests: dict[str, Patients] = {"own": patients}
        if pooled:
            tests["pooled"] = merge(whole, patients.modalities)
        if missing is not None:
            tests |= missing.grid(tests, seed)
        for test, tested in tests.items():
            found = client.predict(tested, *trained[site], scored)
            yield site, test, scores_of(found, study.task)


def anchor_of(sites: Mapping[str, Cohort], study: Study) -> str:
    """The site that a run of FLARE with these would take as anchor site; "" where none offers."""
    offers = {s: c.modalities for s, c in sites.items() if c.settings.cohort(study.name).anchor}
    return elected(offers, study.modalities)


def _slice(server: Server, study: Study, patients: Patients, state: State) -> State:
    names = server.contract(study).names_for(patients.modalities, "state")
    return state.restricted(sorted(names))


def _pooled(
    sites: dict[str, Cohort],
    client: Client,
    server: Server,
    study: Study,
    rounds: int,
    method: Method,
) -> dict[str, Trained]:
    """One model per set of modalities on the pooled training patients, or one per site alone."""
    every = method.pool == "all"
    parts = [c.with_evaluation_only() if every else c for c in sites.values()]
    models: dict[tuple[str, ...], Trained] = {}
    found: dict[str, Trained] = {}
    for site, patients in sites.items():
        held = patients.modalities
        if method.pool == "own" or held not in models:
            pool: Patients = patients if method.pool == "own" else merge(parts, held)
            result = run_federation({pool.site: pool}, client, server, study, rounds)
            models[held] = result.state, result.personal[pool.site]
        found[site] = models[held]
    return found


@dataclass
class _Worker:
    """What a worker process holds between runs."""

    plan: Plan
    cohorts: dict[str, Cohort]

    def run(self, name: str, repeat: int) -> list[Record]:
        start, plan = time.perf_counter(), self.plan
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
            records += [head | {"metric": k, "value": v} for k, v in values.items() if k != "n"]
        seconds = {"method": name, "repeat": repeat, "seconds": time.perf_counter() - start}
        return [*records, seconds]


_worker: _Worker | PolyclinicError | None = None


def _start(plan: Plan) -> None:
    """Prepare a worker process: one thread each, cohorts read once.

    An error is kept for the first run: raised here it would only break the pool.
    """
    global _worker
    torch.set_num_threads(1)
    try:
        _worker = _Worker(plan, open_sites(plan))
    except PolyclinicError as error:
        _worker = error


def _run(name: str, repeat: int) -> list[Record]:
    if isinstance(_worker, PolyclinicError):
        raise _worker
    if _worker is None:
        raise RuntimeError("Expected a started worker.")
    return _worker.run(name, repeat)


def run_plan(plan: Plan, advance: Callable[[int], None]) -> tuple[list[Record], list[Record]]:
    """All records, and the seconds of every run; ``advance(1)`` after each.

    Every run has its own seeds and one thread, so the number of workers changes no figure.

    Raises:
        PolyclinicError: a site that cannot take part, two of one name, or a run that failed.
    """
    distinct_settings(plan.sites)
    tasks, done = plan.tasks(), dict[tuple[str, int], list[Record]]()
    if plan.workers == 1:
        _start(plan)
        for task in tasks:
            done[task] = _run(*task)
            advance(1)
    else:
        for task, found in _in_workers(plan, tasks):
            done[task] = found
            advance(1)
    every = [record for task in tasks for record in done[task]]
    return [r for r in every if "metric" in r], [r for r in every if "seconds" in r]


def _in_workers(
    plan: Plan, tasks: Sequence[tuple[str, int]]
) -> Iterator[tuple[tuple[str, int], list[Record]]]:
    """Tasks with their records as they end; an interrupt ends the workers at once."""
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(plan.workers, context, _start, (plan,))
    try:
        with _workers_deaf_to_interrupts():
            futures: dict[Future[list[Record]], tuple[str, int]] = {
                pool.submit(_run, *task): task for task in tasks
            }
        for future in as_completed(futures):
            yield futures[future], future.result()
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


def chosen_methods(names: Sequence[str]) -> dict[str, Method]:
    """Methods by name.

    Raises:
        StudyError: an unknown name.
    """
    unknown = [n for n in names if n not in presets.METHODS]
    if unknown or not names:
        raise StudyError(
            expected=f"methods among {', '.join(presets.METHODS)}",
            got=", ".join(unknown) or "none",
            remedy="correct --methods",
        )
    return {n: presets.METHODS[n] for n in names}
