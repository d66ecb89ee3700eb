"""How every ``polyclinic`` command speaks: text for people, one JSON envelope for programs.

Exit codes: 0 all is well, 1 a check failed, 4 the input is wrong. With ``--format json`` standard
output holds exactly one object::

    {"schema_version", "status", "exit_code", "data", "code", "message", "hint"}
"""

import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from polyclinic.errors import PolyclinicError

SCHEMA_VERSION = 1
OK, FAILED_CHECK, BAD_INPUT = 0, 1, 4

Format = Literal["txt", "json"]
FormatOption = Annotated[
    Format, typer.Option("--format", help="txt for people, json for programs.")
]

T = TypeVar("T")


class Undelivered(OSError):
    """Standard output took no more: its reader is gone or its disk is full."""


def printable(text: str) -> str:
    """The text without what moves a cursor, renames a window or turns the direction of writing.

    Names come from files that others wrote; a terminal obeys what stands in them.
    """
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _ORDERS)


class _Screen(Console):
    """A console that prints names and never obeys them, and leaves a broken pipe to the caller."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text as rich shows it, without control characters."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Raise: rich would leave with exit code 1, which says that a check failed."""
        raise BrokenPipeError


# Control, format and surrogate characters.
_ORDERS = frozenset({"Cc", "Cf", "Cs"})
# Progress and errors go to standard error, so that standard output can be piped.
screen = _Screen(highlight=False)
errors = _Screen(stderr=True, highlight=False)


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
        Undelivered: standard output cannot be written.
    """
    try:
        if format == "json":
            code = OK if ok else FAILED_CHECK
            _print_json(envelope(data, exit_code=code, code="" if ok else "failed_check"))
        else:
            text()
    except OSError as error:
        raise Undelivered from error
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
        refuse_json(error.code, message, error.remedy, {"owner": error.owner})
    else:
        errors.print(f"[bold red]error[/] ({error.code})", end=" ")
        errors.print(str(error), markup=False)


def refuse_json(code: str, message: str, hint: str, data: Mapping[str, Any] | None = None) -> None:
    """Print the envelope of bad input."""
    told = envelope(data or {}, exit_code=BAD_INPUT, code=code, message=message, hint=hint)
    _print_json(told)


def asked_format(argv: Sequence[str]) -> Format:
    """``json`` when the command line asks for it."""
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    wanted = any(a == "--format=json" or (a, b) == ("--format", "json") for a, b in pairs)
    return "json" if wanted else "txt"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns whose every cell is a number are set flush right.

    Cells are shown as they are, brackets included; a cell with colours is a rich ``Text``. The
    first column holds names and is not broken into lines.
    """
    cells = [list(row) for row in rows]
    drawn = Table(title=_shown(title) if title else None, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[i], int | float) for row in cells)
        side: Literal["left", "right"] = "right" if numeric else "left"
        drawn.add_column(_shown(column), justify=side, overflow="fold", no_wrap=i == 0)
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


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, float):
        return Text(f"{value:.3f}" if math.isfinite(value) else "-")
    return _shown(str(value))


def _shown(text: str) -> Text:
    return Text(printable(text))


def _print_json(payload: Mapping[str, Any]) -> None:
    # ASCII, so that no name can disturb a terminal, whatever its encoding.
    sys.stdout.write(json.dumps(_finite(payload), indent=2) + "\n")


def _finite(value: Any) -> Any:
    """The same value with NaN and infinities as None: JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
