"""The command's shell: exit codes, lazy nouns, one envelope."""

import json
import subprocess
import sys

import pytest
import typer

from polyclinic import __version__
from polyclinic.cli import main, output
from polyclinic.errors import DataError


def test_help_loads_neither_torch_nor_flare():
    code = (
        "import sys; from polyclinic.cli.main import run; assert run(['--help']) == 0; "
        "print([m for m in ('torch', 'nvflare', 'pandas', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(noun in done.stdout for noun in main.NOUNS)


def test_version_is_printed(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"polyclinic {__version__}"


@pytest.mark.parametrize("argv", [["nope"], ["--nope"]])
def test_an_unknown_word_is_bad_input(argv, capsys):
    assert main.run(argv) == 4
    assert "nope" in capsys.readouterr().err


def test_a_noun_that_cannot_be_imported_breaks_only_itself(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "polyclinic.cli.data", None)
    assert main.run(["data", "check"]) == 4
    assert "polyclinic.cli.data" in capsys.readouterr().err
    assert main.run(["--help"]) == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["frob", "--format", "json"],
        ["data", "--format", "json"],
        ["data", "frob", "--format", "json"],
        ["data", "check", "--format", "json"],
        ["data", "generate", "x", "--seed", "-1", "--format=json"],
        ["compare", "--repeats", "0", "--format", "json"],
        ["--format", "json"],
    ],
    ids=" ".join,
)
def test_a_wrong_word_is_an_envelope_for_who_asked_for_json(argv, capsys):
    assert main.run(argv) == 4
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["exit_code"], told["code"]) == ("error", 4, "usage")
    assert "--help" in told["hint"]


def noun(monkeypatch, verb) -> None:
    """Make ``polyclinic data`` this one command."""
    app = typer.Typer()
    app.command("data")(verb)
    module = type(sys)("polyclinic.cli.data")
    module.app = app
    monkeypatch.setitem(sys.modules, "polyclinic.cli.data", module)


@pytest.mark.parametrize("kind", [ValueError, RecursionError, OSError])
def test_a_crash_is_no_failed_check_and_quotes_nothing(kind, monkeypatch, capsys):
    def data(format: str = "txt") -> None:  # noqa: A002
        raise kind("secret")

    noun(monkeypatch, data)
    assert main.run(["data", "--format", "json"]) == 4
    told = capsys.readouterr()
    envelope = json.loads(told.out)
    assert (envelope["exit_code"], envelope["code"]) == (4, "fault")
    assert kind.__name__ in envelope["message"]
    assert main.run(["data"]) == 4
    plain = capsys.readouterr()
    assert kind.__name__ in plain.err
    assert "secret" not in told.out + told.err + plain.out + plain.err
    assert "Traceback" not in plain.err


def test_an_interruption_is_no_failed_check(monkeypatch, capsys):
    def data() -> None:
        raise KeyboardInterrupt

    noun(monkeypatch, data)
    assert main.run(["data"]) == 4
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 4])
def test_the_code_a_command_leaves_with_is_the_command_lines(code, monkeypatch):
    def data() -> None:
        raise typer.Exit(code)

    noun(monkeypatch, data)
    assert main.run(["data"]) == code


@pytest.mark.parametrize(
    "onto", [">&-", ">/dev/full", "| true"], ids=["closed", "full", "broken pipe"]
)
@pytest.mark.parametrize("form", ["txt", "json"])
def test_output_that_cannot_be_written_is_one_sentence(onto, form, tmp_path):
    line = f'"{sys.executable}" -m polyclinic.cli.main job list --jobs . --format {form} {onto}'
    done = subprocess.run(
        ["bash", "-c", f"{line}; echo ${{PIPESTATUS[0]}} >&2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    *told, code = done.stderr.splitlines()
    piped = onto == "| true"  # it may take a short answer before its reader is gone
    assert int(code) in ((0, 4) if piped else (4,))
    assert [line[:6] for line in told] in ([["error:"], []] if piped else [["error:"]])


HOSTILE = "a\x1b]0;owned\x07\x1b[2J\u202eb[/]\x9b"


def test_names_cannot_command_the_terminal(capsys):
    output.table(HOSTILE, [HOSTILE], [[HOSTILE]])
    output.screen.print(HOSTILE, markup=False)
    with pytest.raises(typer.Exit), output.guarded("txt"):
        raise DataError(expected=HOSTILE, got="x", remedy="mend it")
    output.emit({"name": HOSTILE}, text=lambda: None, format="json")
    told = capsys.readouterr()
    shown = told.out + told.err
    assert "]0;owned" in shown
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(shown)


def test_the_names_of_the_first_column_are_not_broken(capsys, monkeypatch):
    monkeypatch.setattr(output.screen, "_width", 60)
    names = ["fedmm_plus_prototype_smoothing", "local"]
    output.table("", ["method", "found"], [[n, "word " * 30] for n in names])
    lines = capsys.readouterr().out.splitlines()
    assert all(any(n in line for line in lines) for n in names)


def test_a_noun_of_one_command_stays_one_command(monkeypatch):
    app = typer.Typer()
    seen = []

    @app.command()
    def compare(repeats: int = 1) -> None:
        seen.append(repeats)

    module = type(sys)("polyclinic.cli.compare")
    module.app = app
    monkeypatch.setitem(sys.modules, "polyclinic.cli.compare", module)
    assert main.run(["compare", "--repeats", "3"]) == 0
    assert seen == [3]


def test_a_noun_of_one_verb_keeps_its_verb(monkeypatch):
    app = typer.Typer()
    seen = []

    @app.command("doctor")
    def doctor(kit: str) -> None:
        seen.append(kit)

    module = type(sys)("polyclinic.cli.site")
    module.app = app
    monkeypatch.setitem(sys.modules, "polyclinic.cli.site", module)
    assert main.run(["site", "doctor", "here"]) == 0
    assert seen == ["here"]


def test_a_failed_check_prints_its_result_and_exits_1(capsys):
    with pytest.raises(typer.Exit) as stop:
        output.emit({"rows": 3, "auroc": float("nan")}, text=lambda: None, format="json", ok=False)
    told = json.loads(capsys.readouterr().out)
    assert stop.value.exit_code == told["exit_code"] == 1
    assert told["status"] == "failed"
    assert told["data"] == {"rows": 3, "auroc": None}


def test_bad_input_names_the_owner_and_the_remedy_and_exits_4(capsys):
    with pytest.raises(typer.Exit) as stop, output.guarded("json"):
        raise DataError(expected="a table", got="nothing", remedy="add it")
    told = json.loads(capsys.readouterr().out)
    assert stop.value.exit_code == told["exit_code"] == 4
    assert (told["code"], told["hint"]) == ("data", "add it")
    assert told["data"] == {"owner": "data manager"}


def test_names_are_printed_as_they_are_not_as_markup(capsys):
    with pytest.raises(typer.Exit), output.guarded("txt"):
        raise DataError(expected="[red]x[/red]", got="[/]", remedy="add it")
    assert "[red]x[/red]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["job", "list", "--format", "json"], "json"),
        (["job", "list", "--format=json"], "json"),
        (["job", "list", "json"], "txt"),
        (["job", "list", "--format"], "txt"),
    ],
)
def test_the_format_is_found_on_the_command_line(argv, expected):
    assert output.asked_format(argv) == expected


def test_no_bar_is_drawn_when_standard_error_is_not_a_terminal(capsys):
    assert list(output.track([1, 2, 3], "working")) == [1, 2, 3]
    told = capsys.readouterr()
    assert told.out == told.err == ""
