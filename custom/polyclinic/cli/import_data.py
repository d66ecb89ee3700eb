"""``polyclinic data import``: a hospital's folder of files made into a site folder."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from polyclinic.cli import output
from polyclinic.cli.import_slides import import_slides
from polyclinic.description import read_description
from polyclinic.errors import StudyError

if TYPE_CHECKING:
    from polyclinic.importing.plan import ImportPlan
    from polyclinic.importing.site_folder import Imported

_FOLDER = "folder"


class FolderFirst(TyperGroup):
    """A group whose first word is a command, or else the folder of its first command.

    A folder that is named like a command is written ``./slides``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the folder command before what is none."""
        asks = not args or args[0] in self.commands or args[0] in ("--help", "-h")
        return super().parse_args(ctx, args if asks else [_FOLDER, *args])


import_app = typer.Typer(
    cls=FolderFirst,
    no_args_is_help=True,
    help="Make a site folder from DICOM, NIfTI, PNG, JPEG and CSV: FOLDER OUT --plan import.yaml",
)


@import_app.callback()
def _group() -> None:
    """Make a site folder from DICOM, NIfTI, PNG, JPEG and CSV: FOLDER OUT --plan import.yaml"""


import_app.command("slides")(import_slides)


@import_app.command(_FOLDER)
def import_folder(
    folder: Annotated[Path, typer.Argument(help="What the hospital exported; it is only read.")],
    out: Annotated[
        Path | None, typer.Argument(help="The site folder, new or of an earlier import.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="import.yaml: what lies where, and whose it is.")
    ] = None,
    draft: Annotated[
        bool, typer.Option("--draft", help="Look at FOLDER and print an import.yaml to fill in.")
    ] = False,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """De-identify a folder into a site folder (exit 1 when not all went as planned)."""
    # pydicom is for those who import.
    from polyclinic.importing.draft import draft_plan
    from polyclinic.importing.plan import ImportPlan
    from polyclinic.importing.site_folder import import_folder, planned

    with output.guarded(format):
        if draft:
            text = draft_plan(folder)
            output.emit({"plan": text}, text=lambda: typer.echo(text, nl=False), format=format)
            return
        if out is None or plan is None:
            raise StudyError(
                expected="FOLDER OUT --plan import.yaml, or FOLDER --draft",
                got="a part of it",
                remedy="name what is missing",
                owner="data manager",
            )
        said = read_description(plan, ImportPlan, what="import.yaml", owner="data manager")
        with output.progress("importing", planned(folder, said)) as advance:
            result = import_folder(folder, out, said, advance)
        data = _told(result, said)
        target = out
        output.emit(data, text=lambda: _print(data, target), format=format, ok=data["ok"])


def _told(result: "Imported", plan: "ImportPlan") -> dict[str, Any]:
    """The result as counts."""
    files = {
        name: {
            "taken": c.seen - len(c.entries),
            "new": c.new,
            "refused": c.refused,
            "passed_over": c.passed,
            "gone": c.gone,
        }
        for name, c in result.files.items()
    }
    tables = {
        name: {
            "rows": s.rows - len(s.entries),
            "left_out": len(s.entries),
            "columns_dropped": dict(s.dropped),
            "cells_blanked": dict(s.blanked),
        }
        for name, s in result.tables.items()
    }
    return {
        "site": plan.site,
        "cohort": plan.cohort,
        "ok": result.ok(plan),
        "patients": result.patients,
        "lost": round(result.lost, 6),
        "max_loss_fraction": plan.max_loss_fraction,
        "ids_alike": result.twins,
        "reached": dict(result.reached),
        "files": files,
        "tables": tables,
    }


def _print(data: Mapping[str, Any], out: Path) -> None:
    rows = [
        [name, f["taken"], f["new"], sum(f["refused"].values()), f["passed_over"], f["gone"]]
        for name, f in data["files"].items()
    ]
    if rows:
        columns = ["files", "taken over", "new", "refused", "passed over", "original gone"]
        output.table("", columns, rows)
    sheets = [[name, t["rows"], t["left_out"]] for name, t in data["tables"].items()]
    output.table("", ["table", "rows", "left out"], sheets)
    refused = [[n, r, c] for n, f in data["files"].items() for r, c in f["refused"].items()]
    if refused:
        output.table("refused", ["files", "reason", "count"], refused)
    for line in _remarks(data):
        output.screen.print(line, markup=False)
    done = f"Imported {data['patients']} patients." if data["ok"] else "Not all went as planned."
    output.screen.print(done, markup=False)
    check = f"Next: polyclinic data check {shlex.quote(str(out))} --study STUDY"
    output.screen.print(check, markup=False, soft_wrap=True)


def _remarks(data: Mapping[str, Any]) -> list[str]:
    """What a data manager should look at."""
    lines = [
        f"Column '{column}' of {name} was not taken over: it looks like {why}."
        + (" If these are codes, list them in the plan's 'codes'." if why == "free text" else "")
        for name, t in data["tables"].items()
        for column, why in t["columns_dropped"].items()
    ]
    lines += [
        f"Column '{column}' of {name}: {n} cell(s) that do not fit the others are blank now."
        for name, t in data["tables"].items()
        for column, n in t["cells_blanked"].items()
    ]
    lines += [
        f"{name}: {n} of {data['patients']} patients of the labels"
        + ("." if n else "; no id of it is one of the labels'.")
        for name, n in data["reached"].items()
    ]
    if data["ids_alike"]:
        lines.append(
            f"{data['ids_alike']} patient ids differ from another only in case or leading zeros: "
            "say in the plan whether they are the 'same' patients or 'apart' (twins)."
        )
    if data["lost"] > data["max_loss_fraction"]:
        lines.append(f"Left out: {data['lost']:.2%}, more than max_loss_fraction allows.")
    return lines
