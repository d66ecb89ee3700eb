"""``polyclinic compare``: methods against each other in one process per repeat, no FLARE."""

import dataclasses
import functools
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from polyclinic.algorithms.presets import Method
from polyclinic.cli import output
from polyclinic.cli.comparison_tables import print_summary
from polyclinic.cli.studies import given_study, study_beside
from polyclinic.comparison.experiment import Plan, chosen_methods, run_plan, site_folders
from polyclinic.comparison.missing import parse_missing
from polyclinic.errors import StudyError
from polyclinic.evaluation.summary import summarise
from polyclinic.jobs import load_job
from polyclinic.storage import write_atomic
from polyclinic.study import Study

app = typer.Typer()

DEFAULT_METHODS = "local,multi_fedavg,fedmm,centralised"


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
    job = load_job(folder)
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
    methods: Annotated[str, typer.Option(help="Names, comma-separated.")] = DEFAULT_METHODS,
    repeats: Annotated[int, typer.Option(min=1, help="Splits and starts to average over.")] = 10,
    rounds: Annotated[int, typer.Option(min=0, help="Federated rounds.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Repeat r uses seed + r.")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="Write records and summary.")] = None,
    study: Annotated[Path | None, typer.Option(help="study.json, its folder or a job.")] = None,
    job: Annotated[Path | None, typer.Option(help="Also compare this job's algorithm.")] = None,
    missing: Annotated[
        str, typer.Option(help="Also score with a modality hidden, as metadata:0,0.5,1.")
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
        require_writable(out)
    folders = site_folders([*(sites or []), *(more or [])])
    chosen = chosen_methods([m.strip() for m in methods.split(",") if m.strip()])
    chosen |= job_method(job) if job else {}
    agreed = find_study(folders, study, job)
    hidden = parse_missing(missing, agreed) if missing else None
    plan = Plan(
        folders, agreed, chosen, repeats, rounds, seed, workers, missing=hidden, pooled=pooled
    )
    with output.progress("runs", len(plan.tasks())) as advance:
        records, seconds = run_plan(plan, advance)
    summary = summarise(records)
    result: dict[str, Any] = {
        "records": records,
        "summary": summary,
        "seconds": seconds,
        "settings": settings_of(plan),
    }
    if out is not None:
        write_atomic(out, (json.dumps(result, indent=1) + "\n").encode())
    output.emit(
        {k: v for k, v in result.items() if k != "records"},
        text=lambda: print_summary(summary, hidden),
        format=format,
    )


def require_writable(path: Path) -> None:
    """Find out before hours of training whether the result can be written.

    Raises:
        StudyError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            got = "a folder" if path.is_dir() else ""
    except OSError as error:
        got = type(error).__name__
    if got:
        raise StudyError(
            expected="a file that can be written", got=got, remedy="name another with --json"
        )


def settings_of(plan: Plan) -> dict[str, Any]:
    """Everything needed to run this again."""
    methods = {}
    for name, method in plan.methods.items():
        client, server = method.halves()
        methods[name] = {
            "client": _described(client),
            "server": _described(server),
            "pool": method.pool,
            "rounds": method.rounds(plan.rounds),
            "study": method.adapted(plan.study).fingerprint(),
        }
    return {
        "repeats": plan.repeats,
        "rounds": plan.rounds,
        "seed": plan.seed,
        "study": plan.study.name,
        "missing": dataclasses.asdict(plan.missing) if plan.missing else None,
        "methods": methods,
    }


def _described(half: object) -> dict[str, Any]:
    """Class and settings of one half of an algorithm."""
    fields = [f.name for f in dataclasses.fields(half) if f.init]  # type: ignore[arg-type]
    kind = type(half)
    path = f"{kind.__module__}.{kind.__qualname__}"
    return {"path": path, "args": {f: getattr(half, f) for f in fields}}
