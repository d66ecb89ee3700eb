"""``polyclinic run``: what came of a run, from its ledger."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from polyclinic.cli import output
from polyclinic.cli.run_places import find_ledger, near
from polyclinic.cli.run_predict import predict
from polyclinic.errors import CheckpointError, StudyError
from polyclinic.evaluation.comparison_file import read_comparison
from polyclinic.ledger import read_ledger
from polyclinic.study import read_json

app = typer.Typer(no_args_is_help=True)
app.command("predict")(predict)

Place = Annotated[
    Path,
    typer.Argument(help="ledger.jsonl, or a folder that holds one: a run's, or a downloaded job."),
]


@app.command("report")
def report(
    place: Place,
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write.")] = Path("report.html"),
    compare: Annotated[
        Path | None, typer.Option("--compare", help="What 'polyclinic compare --json' wrote.")
    ] = None,
    overlays: Annotated[
        Path | None,
        typer.Option(
            help="At a site: show the pictures that 'polyclinic run predict --overlays' wrote. "
            "Such a page holds pictures of patients and stays at the site."
        ),
    ] = None,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """One HTML page about a run, with its pictures inside."""
    # matplotlib and Jinja2 are for this command alone.
    from polyclinic.evaluation.overlays import embedded
    from polyclinic.evaluation.report import ledger_hash, render
    from polyclinic.evaluation.site_rows import site_rows

    with output.guarded(format):
        ledger = find_ledger(place)
        records = read_ledger(ledger)
        if not any(r.get("kind") == "start" for r in records):
            raise CheckpointError(
                expected="a ledger that starts with a run's first line",
                got=f"{len(records)} record(s) without it",
                remedy="point at the ledger of a run that has begun",
            )
        study = _study(ledger)
        comparison = _comparison(compare, records, study) if compare else None
        page = render(
            records,
            study=study,
            comparison=comparison,
            job=_job_name(ledger),
            methods=_methods() if comparison else None,
            overlays=embedded(overlays) if overlays else None,
        )
        _write(out, page, private=overlays is not None)
        facts: dict[str, Any] = {
            "page": str(out),
            "ledger": ledger_hash(records),
            "sites": [{"name": s.name, s.metric: s.score} for s in site_rows(records)],
        }
        output.emit(
            facts,
            text=lambda: output.screen.print(f"wrote {out}", markup=False, soft_wrap=True),
            format=format,
        )


@app.command("resume")
def resume(
    place: Place,
    job: Annotated[Path, typer.Option("--job", help="Folder of the job that began the run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that receives the new job.")],
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """A job that continues a run after the last round in its ledger; submit it like any other."""
    from polyclinic.flare.resume import make_resume_job  # imports FLARE

    with output.guarded(format):
        made = make_resume_job(job, find_ledger(place).parent, out / job.resolve().name)
        output.emit(
            {"job": str(made)},
            text=lambda: output.screen.print(
                f"wrote {made}; submit it with 'nvflare job submit -j {made}'",
                markup=False,
                soft_wrap=True,
            ),
            format=format,
        )


def _study(ledger: Path) -> dict[str, Any]:
    """The study of a run; {} where it is not near its ledger."""
    path = near(ledger, "study.json")
    return _json(path) if path else {}


def _comparison(
    path: Path, records: Sequence[Mapping[str, Any]], study: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``polyclinic compare --json`` wrote, of the run's study.

    By the study's name; a run without its ``study.json`` is told by the fingerprint in its ledger.

    Raises:
        StudyError: it is of another study, or says of none.
    """
    content = read_comparison(path)
    said: dict[str, Any] = content["settings"]
    name, methods = said.get("study"), said.get("methods")
    start = next(r for r in records if r.get("kind") == "start")
    prints = [m.get("study") for m in methods.values()] if isinstance(methods, dict) else []
    same = name == study.get("name") if study else start.get("study") in prints
    if not name or not same:
        raise StudyError(
            expected="a comparison of the run's study"
            + (f" '{study.get('name')}'" if study else ""),
            got=f"one of '{name}'" if name else "a file that names no study",
            remedy="name the file that 'polyclinic compare --json' wrote for this study"
            + ("" if study else ", or put the run's study.json beside its ledger"),
        )
    first: Mapping[str, Any] = next((r for r in records if r.get("kind") == "census"), {})
    census = first.get("sites", {})
    theirs = said.get("sites")
    if isinstance(theirs, dict) and census and set(theirs) != set(census):
        raise StudyError(
            expected=f"a comparison on the run's sites {', '.join(sorted(census))}",
            got=f"one on {', '.join(sorted(theirs))}",
            remedy="compare on the folders of those sites",
        )
    if "summary" not in content:
        raise StudyError(
            expected="a comparison that has ended",
            got="one that stopped half-way",
            remedy="give its command again with --resume",
        )
    return content


def _job_name(ledger: Path) -> str:
    """The name in the job's ``meta.json`` that was downloaded with the ledger; "" when none."""
    places = (folder / "meta.json" for folder in ledger.parents[:4])
    return next((str(_json(path).get("name", "")) for path in places if path.is_file()), "")


def _methods() -> dict[str, str]:
    """One line on every method that ``polyclinic compare`` knows."""
    from polyclinic.algorithms.presets import METHODS  # imports torch

    return {name: method.summary for name, method in METHODS.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise StudyError(
            expected=f"a JSON file at {path.name}",
            got=type(error).__name__,
            remedy="name another file",
        ) from None
    if not isinstance(content, dict):
        raise StudyError(
            expected=f"an object in {path.name}", got="something else", remedy="name another file"
        )
    return content


def _write(path: Path, page: str, *, private: bool) -> None:
    """Write the page; one with pictures of patients can be read by nobody else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if private:
            path.touch(mode=0o600)
            path.chmod(0o600)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StudyError(
            expected="a place that can be written",
            got=type(error).__name__,
            remedy="name another with -o",
        ) from None
