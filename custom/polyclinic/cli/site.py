"""``polyclinic site doctor KIT``: may this kit start, and if not, what mends it?"""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.cli.output import FormatOption, emit, guarded, screen, table
from polyclinic.flare.doctor import examine
from polyclinic.flare.doctor.kit import Report

app = typer.Typer(no_args_is_help=True)
_MARKS = {"ok": "ok", "warn": "warning", "fail": "FAIL"}


@app.command()
def doctor(
    kit: Annotated[Path, typer.Argument(help="Startup kit: the folder with startup/ and local/.")],
    format: FormatOption = "txt",  # noqa: A002  the option is called --format
) -> None:
    """Check one startup kit of a site, a server or an admin; exit 1 when it must not start."""
    with guarded(format):
        report = examine(kit)
    emit(report.data(), text=lambda: _show(report), format=format, ok=report.passed)


def _show(report: Report) -> None:
    rows = [(_MARKS[f.status], f.check, f.sentence()) for f in report.findings]
    table(f"{report.role} {report.kit}", ("", "check", "finding"), rows)
    wrong = sum(f.status == "fail" for f in report.findings)
    warnings = sum(f.status == "warn" for f in report.findings)
    verdict = "It may start" if report.passed else "It does not start"
    screen.print(f"{verdict}: {len(rows)} findings, {wrong} failed, {warnings} warning(s).")
