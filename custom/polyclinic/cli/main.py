"""The root of the ``polyclinic`` command; a noun is imported only when it is asked for.

So ``polyclinic --help`` loads neither torch nor FLARE, and a noun that cannot be imported breaks
only itself.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from polyclinic import __version__
from polyclinic.cli import output
from polyclinic.errors import PolyclinicError, place_of

NOUNS = {
    "data": "Check, describe or generate a hospital's data.",
    "job": "List, show, check or bundle FLARE jobs.",
    "site": "Look a site's startup kit over before it starts.",
    "run": "Report on a run, continue it, or segment scans with what it left.",
    "compare": "Run methods against each other in one process, many repeats.",
}


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
    """Exit code of one command line: 0, 1 for a failed check, 4 for everything that went wrong.

    A crash is never 1: a program would read it as a check that failed.
    """
    if sys.stdout is None:
        output.errors.print("error: standard output is closed")
        return output.BAD_INPUT
    try:
        code = _answer(argv)
        sys.stdout.flush()
    except OSError:
        # The reader is gone or the disk is full: there is nowhere left to say it but here.
        _drop_output()
        output.errors.print("error: standard output cannot be written")
        return output.BAD_INPUT
    return code


def _answer(argv: Sequence[str]) -> int:
    """Exit code of a command line, with every error told in its format."""
    wants_json = output.asked_format(argv) == "json"
    try:
        command = typer.main.get_command(build(argv))
        code = command.main(args=list(argv), prog_name="polyclinic", standalone_mode=False)
    except PolyclinicError as error:
        output.refuse(error, output.asked_format(argv))
    except TyperException as error:
        _refuse_usage(error, wants_json)
    except (typer.Abort, KeyboardInterrupt):
        output.errors.print("stopped")
    except (BrokenPipeError, output.Undelivered):
        raise
    except SystemExit as stop:
        # Typer leaves with 1, and without a word, when the reader of a pipe is gone.
        return output.OK if stop.code in (None, output.OK) else output.BAD_INPUT
    except Exception as error:
        _refuse_crash(error, wants_json)
    else:
        # A command returns None, a stop hands back its exit code.
        known = {None: output.OK, output.OK: output.OK, output.FAILED_CHECK: output.FAILED_CHECK}
        return known.get(code, output.BAD_INPUT)
    return output.BAD_INPUT


def _refuse_usage(error: TyperException, wants_json: bool) -> None:
    """Tell a wrong word on the command line."""
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "polyclinic")
    nothing = type(error).__name__ == "NoArgsIsHelpError"
    told = "Expected a verb or option, got none." if nothing else _sentence(error)
    if wants_json:
        output.refuse_json("usage", told, f"see '{path} --help'")
    elif not nothing:  # the help is on the screen already
        output.errors.print("[bold red]error[/] (usage)", end=" ")
        output.errors.print(f"{told} See '{path} --help'.", markup=False, soft_wrap=True)


def _sentence(error: TyperException) -> str:
    """What typer says of a wrong word."""
    message: str = getattr(error, "format_message", lambda: str(error))()
    return message


def _refuse_crash(error: Exception, wants_json: bool) -> None:
    """Tell a fault of this package by its kind and place; its text could name a patient."""
    kind = type(error).__name__
    if isinstance(error, ImportError) and error.name:
        kind += f" of {error.name}"
    message = (
        f"polyclinic {__version__} stopped at a fault of its own: {kind} in {place_of(error)}."
    )
    hint = "report this sentence and the command, without data; nothing was checked"
    if wants_json:
        output.refuse_json("fault", message, hint)
    else:
        output.errors.print("[bold red]error[/] (fault)", end=" ")
        output.errors.print(f"{message} To mend it: {hint}.", markup=False, soft_wrap=True)


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not stumble over it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def app() -> None:
    """The console entry point."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    app()
