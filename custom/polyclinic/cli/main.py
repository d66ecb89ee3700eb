"""The root of the ``polyclinic`` command; a noun is imported only when it is asked for.

So ``polyclinic --help`` loads neither torch nor FLARE, and a noun that cannot be imported breaks
only itself.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from polyclinic import __version__
from polyclinic.cli import output
from polyclinic.errors import PolyclinicError

NOUNS = {
    "data": "Check, describe or generate a hospital's data.",
    "job": "List, show, check or bundle FLARE jobs.",
    "site": "Look a site's startup kit over before it starts.",
    "run": "Report on a run, or make a job that continues it.",
    "compare": "Run methods against each other in one process, many repeats.",
}
_USAGE_ERROR = 2


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"polyclinic {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Hospitals that hold different modalities train together on NVIDIA FLARE."""


def build(argv: Sequence[str]) -> typer.Typer:
    """The root command, with the noun that ``argv`` names loaded and the others as signposts."""
    root = typer.Typer(
        name="polyclinic", no_args_is_help=True, add_completion=False, callback=_root
    )
    wanted = next((word for word in argv if not word.startswith("-")), "")
    for noun, summary in NOUNS.items():
        if noun == wanted:
            _mount(root, noun, summary)
        else:
            root.add_typer(typer.Typer(callback=lambda: None), name=noun, help=summary)
    return root


def _mount(root: typer.Typer, noun: str, summary: str) -> None:
    """Import a noun and hang it under the root; a noun that is one command stays one command."""
    loaded: typer.Typer = importlib.import_module(f"polyclinic.cli.{noun}").app
    commands = loaded.registered_commands
    if len(commands) == 1 and not loaded.registered_callback and not loaded.registered_groups:
        function = commands[0].callback
        if commands[0].name == noun or getattr(function, "__name__", "") == noun:
            commands[0].name = noun
            root.registered_commands.append(commands[0])
            return
    if loaded.registered_callback is None:
        # Without a callback typer would fold a noun of one verb into that verb.
        loaded.callback()(lambda: None)
    root.add_typer(loaded, name=noun, help=summary, no_args_is_help=True)


def run(argv: Sequence[str]) -> int:
    """Exit code of one command line: 0, 1 for a failed check, 4 for bad input."""
    try:
        build(argv)(args=list(argv), prog_name="polyclinic")
    except PolyclinicError as error:
        output.refuse(error, output.asked_format(argv))
        return output.BAD_INPUT
    except SystemExit as stop:
        if stop.code == _USAGE_ERROR:
            return output.BAD_INPUT
        return stop.code if isinstance(stop.code, int) else output.OK
    return output.OK


def app() -> None:
    """The console entry point."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    app()
