"""``polyclinic job``: which jobs there are, what one says, whether it may be submitted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import polyclinic
from polyclinic.cli import output
from polyclinic.errors import PolyclinicError, StudyError
from polyclinic.study import load_study, read_json

app = typer.Typer(no_args_is_help=True)

# From this width on a list of jobs tells everything.
WIDE = 120

# Who does the step between rounds.
ANCHORS = {
    "site": "one that holds every modality and says anchor: true",
    "server": "none: the server trains on data of its own",
}

Folder = Annotated[
    Path | None,
    typer.Option("--jobs", help="Folder of jobs; default ./jobs, else the repository's."),
]


@app.command("list")
def list_jobs(jobs: Folder = None, format: output.FormatOption = "txt") -> None:  # noqa: A002
    """Every job: study, algorithm, modalities, rounds, quorum."""
    with output.guarded(format):
        rows = [_summary(path.parent) for path in sorted(_jobs_folder(jobs).glob("**/meta.json"))]
        output.emit({"jobs": rows}, text=lambda: _print_jobs(rows), format=format)


@app.command("show")
def show(
    job: Annotated[str, typer.Argument(help="Name in the jobs folder, a job folder or a .zip.")],
    jobs: Folder = None,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """What a job says, and every reason why it may not be submitted (then the exit code is 1)."""
    # Binding arguments imports FLARE and torch; listing does not.
    from polyclinic.algorithms.base import wants_anchor
    from polyclinic.flare.lint import check_archive, check_job
    from polyclinic.jobs import load_job

    with output.guarded(format):
        place = _find(job, jobs)
        faults = check_archive(place) if place.is_file() else check_job(place)
        summary: dict[str, Any] = {"name": place.stem}
        if place.is_dir() and not faults:
            summary = _summary(place) | {"modalities": _modalities(place)}
            said = load_job(place)
            if wants_anchor(said.server):
                own = said.rounds_args.get("anchor") == "server"
                summary["anchor site"] = ANCHORS["server" if own else "site"]
        told = [{"where": f.where, "what": f.what, "remedy": f.remedy} for f in faults]
        output.emit(
            {"job": summary, "faults": told},
            text=lambda: _print_job(summary, told),
            format=format,
            ok=not faults,
        )


@app.command("bundle")
def bundle(
    job: Annotated[str, typer.Argument(help="Name in the jobs folder, or a job folder.")],
    out: Annotated[Path, typer.Argument(help="Folder that receives the bundled job.")],
    jobs: Folder = None,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """The same job with the package inside, for sites that allow code in jobs (BYOC)."""
    from polyclinic.flare.bundle import write_bundle
    from polyclinic.flare.lint import check_job

    with output.guarded(format):
        place = _find(job, jobs)
        faults = check_job(place)
        if faults:
            raise StudyError(
                expected="a job without faults",
                got=f"{len(faults)}, the first: {faults[0].where} {faults[0].what}",
                remedy="see 'polyclinic job show'",
            )
        target = write_bundle(place, out)
        output.emit(
            {"folder": str(target)},
            text=lambda: output.screen.print(f"wrote {target}", markup=False),
            format=format,
        )


def _jobs_folder(asked: Path | None) -> Path:
    """The folder asked for, ./jobs, or the repository's when polyclinic is installed from one."""
    beside = Path(polyclinic.__file__).resolve().parents[2] / "jobs"
    for folder in [asked] if asked else [Path("jobs"), beside]:
        if folder.is_dir():
            return folder
    raise StudyError(
        expected="a folder of jobs",
        got="none at ./jobs" if asked is None else "no such folder",
        remedy="name it with --jobs",
    )


def _find(job: str, jobs: Path | None) -> Path:
    """A job folder or archive by path, else by name."""
    path = Path(job)
    if path.is_dir() or (path.is_file() and path.suffix == ".zip"):
        return path.resolve()
    found = [p.parent for p in _jobs_folder(jobs).glob("**/meta.json") if p.parent.name == job]
    if len(found) != 1:
        raise StudyError(
            expected=f"one job named '{job}'",
            got=f"{len(found)}",
            remedy="see 'polyclinic job list'",
        )
    return found[0]


def _summary(folder: Path) -> dict[str, Any]:
    """The facts of a job that a person compares; a field that cannot be read is None."""
    facts: dict[str, Any] = dict.fromkeys(("study", "algorithm", "rounds", "min_clients"))
    facts |= {"name": folder.name, "modalities": []}
    try:
        meta: Any = read_json(folder / "meta.json")
        server: Any = read_json(folder / "app/config/config_fed_server.json")
        study = load_study(folder / "app" / "config")
        args = server["workflows"][0]["args"]
        facts["min_clients"] = meta["min_clients"]
        facts["rounds"] = args.get("rounds")
        facts["algorithm"] = args["server"]["path"].split(".")[-2]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, PolyclinicError):
        return facts
    facts["study"] = study.name
    facts["modalities"] = [
        {"name": n, "kind": m.kind, "width": m.width} for n, m in sorted(study.modalities.items())
    ]
    return facts


def _modalities(folder: Path) -> list[dict[str, Any]]:
    """The modalities of a sound job, with the size of one patient's input in words."""
    # They import torch; listing does not.
    from polyclinic.data.image import recipe_of as image_recipe
    from polyclinic.data.scan_recipe import recipe_of as scan_recipe
    from polyclinic.data.volume_recipe import recipe_of as volume_recipe

    told, study = [], load_study(folder / "app" / "config")
    for name, modality in sorted(study.modalities.items()):
        size = str(modality.width)
        if modality.kind == "image":
            size = f"{_product(image_recipe(name, modality).size)} pixels"
        elif study.task.segments:
            size = f"1 sequence in crops of {_product(scan_recipe(study).size)} voxels"
        elif modality.kind == "volume":
            voxels = _product(volume_recipe(name, modality).size)
            size = f"{modality.width} sequence(s) of {voxels} voxels"
        told.append({"name": name, "kind": modality.kind, "width": modality.width, "size": size})
    return told


def _product(edges: Sequence[int]) -> str:
    """Edges in words, as 224 x 224."""
    return " x ".join(map(str, edges))


def _text(value: Any) -> object:
    if isinstance(value, list):
        return " ".join(m["name"] for m in value)
    return "-" if value is None else value


def _print_jobs(jobs: Sequence[dict[str, Any]]) -> None:
    """A line for each job, with as much as the screen takes without breaking words."""
    columns = {"name": "name", "study": "study", "modalities": "modalities"}
    if output.screen.width >= WIDE:
        columns |= {"algorithm": "algorithm", "rounds": "rounds", "min_clients": "sites at least"}
    rows = [[_text(job[key]) for key in columns] for job in jobs]
    output.table("", list(columns.values()), rows)
    output.screen.print("polyclinic job show NAME says more of one")


def _print_job(summary: dict[str, Any], faults: list[dict[str, str]]) -> None:
    rows = [[key, _text(value)] for key, value in summary.items() if key != "modalities"]
    for modality in summary.get("modalities", []):
        rows.append([modality["name"], f"{modality['kind']} of {modality['size']}"])
    output.table("", ["job", ""], rows)
    if faults:
        fault_rows = [[f["where"], f["what"], f["remedy"]] for f in faults]
        output.table("may not be submitted", ["where", "what", "remedy"], fault_rows)
    else:
        output.screen.print("may be submitted: JSON only, every class allow-listed and sound")
