"""``polyclinic data``: is a cohort fit for a study, what shape has it, and one to try."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from polyclinic.cli import output
from polyclinic.cli.import_data import import_app
from polyclinic.cli.studies import given_site, given_study, study_beside
from polyclinic.errors import StudyError
from polyclinic.settings import SiteSettings
from polyclinic.study import Study

if TYPE_CHECKING:
    from polyclinic.algorithms.base import Server
    from polyclinic.data.check import RoundSize

app = typer.Typer(no_args_is_help=True)
app.add_typer(import_app, name="import")

SiteArgument = Annotated[
    Path, typer.Argument(help="A site's folder with polyclinic.yaml, or that file.")
]
StudyOption = Annotated[
    Path | None,
    typer.Option("--study", help="study.json, its folder, or a job; default beside the site."),
]
_MARKS = {
    "ok": Text("ok", "green"),
    "warning": Text("look", "yellow"),
    "failed": Text("failed", "bold red"),
}


@app.command("check")
def check(
    site: SiteArgument,
    study: StudyOption = None,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """Whether a job would accept this cohort, and what to mend (exit 1 when it would not)."""
    # Reading data imports torch; 'polyclinic data --help' does not.
    from polyclinic.data.check import check_cohort

    with output.guarded(format):
        settings, agreed = _opened(site, study)
        with output.progress("reading", None) as advance:
            report = check_cohort(settings, agreed, round_size(study), advance)
        findings = [vars(f) for f in report.findings]
        data = {
            "site": report.site,
            "cohort": report.cohort,
            "study": agreed.fingerprint(),
            "ok": report.ok,
            "findings": findings,
            **report.facts,
        }
        output.emit(
            data, text=lambda: _print_check(findings, report.ok), format=format, ok=report.ok
        )


@app.command("describe")
def describe(
    site: SiteArgument,
    study: StudyOption = None,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """Patients, presence patterns and missingness; no count below the site's minimum_cell."""
    from polyclinic.data.cohort import cohort_of, read_records
    from polyclinic.data.describe import describe_cohort

    with output.guarded(format):
        settings, agreed = _opened(site, study)
        data = describe_cohort(cohort_of(settings, read_records(settings, agreed), agreed))
        output.emit(data, text=lambda: _print_description(data), format=format)


@app.command("generate")
def generate(
    out: Annotated[Path, typer.Argument(help="Folder that receives the sites and a study.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same hospitals.")] = 0,
    five_kinds: Annotated[
        bool, typer.Option("--five-kinds", help="As DICOM, PNG, NIfTI, SVS and CSV files.")
    ] = False,
    tumours: Annotated[
        bool, typer.Option("--tumours", help="Brain scans with the masks of tumours, four sites.")
    ] = False,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """Small, unlike, invented hospitals to try everything on."""
    with output.guarded(format):
        if five_kinds and tumours:
            raise StudyError(
                expected="--five-kinds or --tumours",
                got="both",
                remedy="generate them one after the other, in two folders",
            )
        _require_empty(out)
        sites, broken, after = _generated(out, seed, five_kinds, tumours)
        names = [s.name for s in sites]
        data = {"folder": str(out), "sites": names, "broken": broken, "next": after}
        lines = [f"wrote {out}: study.json, {', '.join(names)}"]
        lines += [
            f"{site}: {n} × {reason}, broken on purpose"
            for site, reasons in broken.items()
            for reason, n in reasons.items()
        ]
        output.emit(
            data,
            text=lambda: output.screen.print("\n".join([*lines, *after]), markup=False),
            format=format,
        )


def _generated(
    out: Path, seed: int, five_kinds: bool, tumours: bool
) -> tuple[list[Path], dict[str, dict[str, int]], list[str]]:
    """The site folders, what is broken in them, and the commands that are left to the user."""
    if tumours:
        from polyclinic.data.generated import tumours as marked

        return marked.generate_tumour_consortium(out, seed), marked.BROKEN, []
    if not five_kinds:
        from polyclinic.data import generator

        return generator.generate_consortium(out, seed), generator.BROKEN, []
    from polyclinic.data.generated import five

    sites = five.generate_five_kinds(out, seed=seed)
    after = [
        f"polyclinic data import slides {s / five.SLIDES} {s} --weights {five.TRUNK} --keep-names"
        for s in sites
        if (s / five.SLIDES).is_dir()
    ]
    return sites, five.BROKEN, after


def _require_empty(out: Path) -> None:
    """Make a folder, or find it empty.

    Raises:
        StudyError: it has content, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        got = "one with content" if any(out.iterdir()) else ""
        if not got and not os.access(out, os.W_OK):
            got = "one that cannot be written"
    except OSError as error:
        got = type(error).__name__
    if got:
        raise StudyError(
            expected="a folder that is empty or not there yet",
            got=got,
            remedy="name another folder",
        )


def round_size(job: Path | None) -> "RoundSize":
    """Tells the bytes up and down of one round: of a job, else of the plainest algorithm that the
    task allows, with its defaults."""

    def told(study: Study, held: tuple[str, ...]) -> tuple[int, int]:
        from polyclinic.jobs import load_job  # the algorithms are heavy, 'describe' needs none

        own = job is not None and (job / "meta.json").is_file()
        server = load_job(job).server if job is not None and own else plainest(study)
        contract = server.contract(study)
        return contract.nbytes_for(held), contract.nbytes_for(held, "state")

    return told


def plainest(study: Study) -> "Server":
    """FedMEPD for a task of masks, FedAvg for one of labels, which have no prototypes, else
    FedMM."""
    if study.task.segments:
        from polyclinic.algorithms import fedmepd

        return fedmepd.Server()
    from polyclinic.algorithms import fedavg, fedmm

    return fedavg.Server() if study.task.multi_label else fedmm.Server()


def _opened(site: Path, study: Path | None) -> tuple[SiteSettings, Study]:
    """The settings of a site and the study to hold its cohort against."""
    settings = given_site(site)
    beside = site if site.is_dir() else site.parent
    return settings, given_study(study) if study else study_beside([beside])


def _print_check(findings: list[dict[str, Any]], ok: bool) -> None:
    rows = [
        [_MARKS[f["level"]], f["check"], f["modality"], _message(f["message"], f["remedy"])]
        for f in findings
    ]
    output.table("", ["", "check", "modality", "found"], rows)
    verdict = "[green]A job would accept this cohort.[/]"
    output.screen.print(verdict if ok else "[bold red]A job would refuse this cohort.[/]")


def _message(message: str, remedy: str) -> str:
    """A finding and what to do."""
    return f"{message}; {remedy}" if remedy else message


def _print_description(data: Mapping[str, Any]) -> None:
    wanted = ("site", "cohort", "patients", "records", "minimum_cell")
    said = {k: data[k] for k in wanted if k in data}
    output.table("", ["cohort", ""], [[k, v] for k, v in said.items()])
    output.table("splits", ["split", "patients"], list(data["splits"].items()))
    output.table("who carries what", ["modalities", "patients"], list(data["patterns"].items()))
    if "masks" in data:
        # The first says how many have a mask at all, which is no class.
        marked = [["(have a mask)" if k == "patients" else k, v] for k, v in data["masks"].items()]
        output.table("masks", ["marked", "patients"], marked)
    rows = [
        [name, m["kind"], m["width"], m["patients"], "yes" if m["trained_on"] else "no", _more(m)]
        for name, m in data["modalities"].items()
    ]
    columns = ["modality", "kind", "width", "patients", "trained on", "more"]
    output.table("modalities", columns, rows)
    for name, modality in data["modalities"].items():
        if modality.get("fields"):
            _print_fields(name, modality["fields"])
    if data["quarantine"]:
        output.table("left out", ["reason", "count"], list(data["quarantine"].items()))


def _print_fields(name: str, fields: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        [f, _percent(told["present"]), told.get("unit", ""), told.get("set_aside", "")]
        for f, told in fields.items()
    ]
    output.table(f"fields of {name}", ["field", "present", "unit", "set aside"], rows)


def _percent(share: object) -> str:
    return f"{share:.1%}" if isinstance(share, float) else str(share)


def _more(modality: Mapping[str, Any]) -> str:
    """Missingness, bag sizes or what the kind says of itself, in one line."""
    missing, instances = modality.get("missing"), modality.get("instances")
    if missing:
        return f"{missing['share']:.1%} of values absent"
    if instances:
        return f"{instances['q1']:g} to {instances['q3']:g} instances (quartiles)"
    return ", ".join(f"{k} {v}" for k, v in modality.get("summary", {}).items())
