"""``polyclinic compare``: methods against each other in one process per repeat, no FLARE."""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from polyclinic.algorithms.presets import METHODS, Method
from polyclinic.cli import output
from polyclinic.cli.comparison_tables import print_summary
from polyclinic.cli.studies import given_study, study_beside
from polyclinic.comparison.experiment import (
    Plan,
    chosen_methods,
    distinct_settings,
    require_anchor,
    site_folders,
)
from polyclinic.comparison.missing import parse_missing
from polyclinic.comparison.results import Results, results_so_far, settings_of
from polyclinic.comparison.runs import failed, runs_of
from polyclinic.errors import StudyError
from polyclinic.evaluation.summary import summarise
from polyclinic.jobs import load_job
from polyclinic.study import Study

app = typer.Typer()

DEFAULT_METHODS = "local,multi_fedavg,fedmm,centralised"
DEFAULT_SCANS = "scan_local,scan_fedavg_keyed,fedmepd"


def find_study(sites: tuple[Path, ...], given: Path | None, job: Path | None) -> Study:
    """The study of ``--study``, of ``--job``, or the first found in a site folder or its parent.

    Raises:
        StudyError: none anywhere.
    """
    if given is not None:
        return given_study(given)
    if job is not None:
        return load_job(job).study
    return study_beside(sites)


def job_method(folder: Path) -> dict[str, Method]:
    """The algorithm of a job with its own settings, under the job's name."""
    job = load_job(folder.resolve())
    if job.name in METHODS:
        raise StudyError(
            expected="a job that is not called like a method",
            got=f"'{job.name}'",
            remedy="copy it under another name",
        )
    return {
        job.name: Method(
            summary=f"as job {job.name} sets it",
            client=functools.partial(dataclasses.replace, job.client),  # type: ignore[type-var]
            server=functools.partial(dataclasses.replace, job.server),  # type: ignore[type-var]
        )
    }


@app.command()
def compare(
    more: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    sites: Annotated[
        list[Path] | None,
        typer.Option("--sites", help="Site folders, or folders that hold them."),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Names, comma-separated; a wrong one lists all that fit. Default: "
            f"{DEFAULT_METHODS.replace(',', ', ')}; for masks {DEFAULT_SCANS.replace(',', ', ')}."
        ),
    ] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Splits and starts to average over.")] = 10,
    rounds: Annotated[int, typer.Option(min=0, help="Federated rounds.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Repeat r uses seed + r.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write records run by run, then the summary.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the runs that --json holds, if any.")
    ] = False,
    study: Annotated[Path | None, typer.Option(help="study.json, its folder or a job.")] = None,
    job: Annotated[Path | None, typer.Option(help="Also compare this job's algorithm.")] = None,
    missing: Annotated[
        str, typer.Option(help="Also score with a modality hidden, as metadata:0,0.5,1.")
    ] = "",
    aside: Annotated[
        str, typer.Option(help="Sites to leave out of means over sites, comma-separated.")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
    pooled: Annotated[
        bool, typer.Option(help="Also score every site's model on all sites' patients.")
    ] = True,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """Train methods on the same sites many times and compare their scores.

    Example: polyclinic compare --sites h1 h2 h3 --methods local,fedmm --repeats 5 --json out.json
    """
    if out is not None:
        out = out.resolve()  # a link stays one
        require_writable(out, resume=resume)
    elif resume:
        raise StudyError(
            expected="a file to go on from",
            got="--resume without --json",
            remedy="name one with --json",
        )
    folders = site_folders([*(sites or []), *(more or [])])
    agreed = find_study(folders, study, job)
    named = methods or (DEFAULT_SCANS if agreed.task.segments else DEFAULT_METHODS)
    chosen = chosen_methods([m.strip() for m in named.split(",") if m.strip()], agreed)
    chosen |= job_method(job) if job else {}
    hidden = parse_missing(missing, agreed) if missing else None
    plan = Plan(
        folders, agreed, chosen, repeats, rounds, seed, workers, missing=hidden, pooled=pooled
    )
    require_anchor(plan)
    left_out = sites_aside(aside, plan)
    settings = settings_of(plan)
    results = results_so_far(out, settings) if out and resume else Results(out, settings)
    train_missing(plan, results)
    told = results.told()
    if told["failed"] and not told["seconds"]:
        raise failed([run for run in results.runs.values() if run.reason])
    summary = summarise(told["records"], left_out)
    end = {"summary": summary, "aside": sorted(left_out)}
    results.write(**end)
    output.emit(
        {k: v for k, v in told.items() if k != "records"} | end,
        text=lambda: print_summary(summary, hidden, left_out, told),
        format=format,
        ok=not told["failed"],
    )


def train_missing(plan: Plan, results: Results) -> None:
    """The runs of the plan that have not ended yet; one that fails is told at once."""
    ended = {task for task, run in results.runs.items() if not run.reason}
    tasks = [task for task in plan.tasks() if task not in ended]
    try:
        with output.progress("runs", len(tasks)) as advance:
            for run in runs_of(plan, tasks):
                results.add(run)
                if run.reason:
                    told = f"{run.method}, repeat {run.repeat}, failed: {run.reason}"
                    output.errors.print(told, markup=False, soft_wrap=True)
                advance(1)
    except KeyboardInterrupt:
        how = "; give the same command with --resume to go on" if results.path else ""
        output.errors.print(f"stopped after {len(results.runs)} runs{how}", markup=False)
        raise


def sites_aside(given: str, plan: Plan) -> frozenset[str]:
    """Names of sites that are not in means.

    Raises:
        StudyError: a site that is not there, or all of them.
    """
    named = frozenset(s.strip() for s in given.split(",") if s.strip())
    known = {s.site for s in distinct_settings(plan.sites)}
    if named - known or named == known:
        raise StudyError(
            expected=f"some, not all, of the sites {', '.join(sorted(known))}",
            got=", ".join(sorted(named)),
            remedy="correct --aside",
        )
    return named


def require_writable(path: Path, *, resume: bool) -> None:
    """Find out before hours of training whether the result can be written, and spoils no other.

    Raises:
        StudyError: it cannot, or there is a file that ``--resume`` was not given for.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            got = "" if path.is_file() or not path.exists() else "no regular file"
    except OSError as error:
        got = type(error).__name__
    if got:
        raise StudyError(
            expected="a file that can be written", got=got, remedy="name another with --json"
        )
    if not resume and path.exists() and path.stat().st_size:
        raise StudyError(
            expected="a new file after --json",
            got="one with content",
            remedy="name another, or go on from its runs with --resume",
        )
