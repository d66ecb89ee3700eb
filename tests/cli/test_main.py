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
    with pytest.raises(ImportError):
        main.run(["data", "check"])
    assert main.run(["--help"]) == 0


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
