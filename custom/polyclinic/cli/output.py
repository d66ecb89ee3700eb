"""How every ``polyclinic`` command speaks: text for people, one JSON envelope for programs.

Exit codes: 0 all is well, 1 a check failed, 4 the input is wrong. With ``--format json`` standard
output holds exactly one object::

    {"schema_version", "status", "exit_code", "data", "code", "message", "hint"}
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from polyclinic.errors import PolyclinicError

SCHEMA_VERSION = 1
OK, FAILED_CHECK, BAD_INPUT = 0, 1, 4

Format = Literal["txt", "json"]
FormatOption = Annotated[
    Format, typer.Option("--format", help="txt for people, json for programs.")
]

T = TypeVar("T")

# Progress and errors go to standard error, so that standard output can be piped.
screen = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def envelope(
    data: Mapping[str, Any],
    *,
    exit_code: int = OK,
    code: str = "",
    message: str = "",
    hint: str = "",
) -> dict[str, Any]:
    """The object that ``--format json`` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": {OK: "ok", FAILED_CHECK: "failed"}.get(exit_code, "error"),
        "exit_code": exit_code,
        "data": dict(data),
        "code": code,
        "message": message,
        "hint": hint,
    }


def emit(
    data: Mapping[str, Any],
    *,
    text: Callable[[], None],
    format: str = "txt",  # noqa: A002  the option is called --format
    ok: bool = True,
) -> None:
    """Print the result once, as text or as the envelope; a failed check leaves with exit code 1.

    Args:
        data: JSON-able result; numbers that are not finite become null.
        text: prints the same result for a person.
        ok: False when the command did its work and found a fault.

    Raises:
        typer.Exit: with code 1 when not ``ok``.
    """
    if format == "json":
        code = OK if ok else FAILED_CHECK
        _print_json(envelope(data, exit_code=code, code="" if ok else "failed_check"))
    else:
        text()
    if not ok:
        raise typer.Exit(FAILED_CHECK)


@contextmanager
def guarded(format: str = "") -> Iterator[None]:  # noqa: A002
    """Turn a ``PolyclinicError`` into one sentence and exit code 4; also usable as a decorator.

    Args:
        format: ``txt`` or ``json``; empty looks for ``--format json`` on the command line.
    """
    try:
        yield
    except PolyclinicError as error:
        refuse(error, format)
        raise typer.Exit(BAD_INPUT) from None


def refuse(error: PolyclinicError, format: str = "") -> None:  # noqa: A002
    """Print an error where the reader of this format looks for it."""
    if (format or asked_format(sys.argv)) == "json":
        message = f"Expected {error.expected}, got {error.got}."
        _print_json(
            envelope(
                {"owner": error.owner},
                exit_code=BAD_INPUT,
                code=error.code,
                message=message,
                hint=error.remedy,
            )
        )
    else:
        errors.print(f"[bold red]error[/] ({error.code})", end=" ")
        errors.print(str(error), markup=False)


def asked_format(argv: Sequence[str]) -> Format:
    """``json`` when the command line asks for it."""
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    wanted = any(a == "--format=json" or (a, b) == ("--format", "json") for a, b in pairs)
    return "json" if wanted else "txt"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns whose every cell is a number are set flush right."""
    cells = [list(row) for row in rows]
    drawn = Table(title=title or None, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[i], int | float) for row in cells)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(_cell(value) for value in row))
    screen.print(drawn)


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function that advances a bar; the bar is shown only on a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=total)

        def advance(steps: int) -> None:
            bar.advance(task, steps)

        yield advance


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """The items, with a bar on a terminal."""
    with progress(description, len(items)) as advance:
        for item in items:
            yield item
            advance(1)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if math.isfinite(value) else "-"
    return str(value)


def _print_json(payload: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(_finite(payload), indent=2, ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    """The same value with NaN and infinities as None: JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
