"""The file of a comparison: written run by run, gone on from, and never over another's."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comparing import compare
from polyclinic.algorithms.presets import METHODS
from polyclinic.comparison.experiment import Plan
from polyclinic.comparison.runs import Run, runs_of


def test_two_commands_with_one_file_do_not_write_over_each_other(
    consortium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"

    def meanwhile(plan: Plan, tasks: list[tuple[str, int]]) -> Iterator[Run]:
        out.write_text("of another")
        return runs_of(plan, tasks)

    monkeypatch.setattr("polyclinic.cli.compare.runs_of", meanwhile)
    assert compare(consortium, out, "--workers", "1", methods="local") == 4
    assert out.read_text() == "of another"


def test_a_link_stays_a_link(consortium: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    assert compare(consortium, link, "--workers", "1", methods="local") == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["records"]


def test_what_is_no_regular_file_is_not_replaced(consortium: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for more in ([], ["--resume"]):
        assert compare(consortium, pipe, *more) == 4
    assert pipe.is_fifo()


def test_a_file_with_content_is_not_written_over(consortium: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("an hour of runs")
    assert compare(consortium, out) == 4
    assert out.read_text() == "an hour of runs"


def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The runs that are trained from now on."""
    started: list[tuple[str, int]] = []

    def counted(plan: Plan, tasks: list[tuple[str, int]]) -> Iterator[Run]:
        started.extend(tasks)
        return runs_of(plan, tasks)

    monkeypatch.setattr("polyclinic.cli.compare.runs_of", counted)
    return started


def test_a_comparison_goes_on_from_the_runs_that_its_file_holds(
    consortium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    one = ["--workers", "1"]
    assert compare(consortium, whole, *one, "--repeats", "2") == 0
    assert compare(consortium, parts, *one, "--resume", methods="local") == 0  # from nothing
    started = trained(monkeypatch)
    assert compare(consortium, parts, *one, "--repeats", "2", "--resume") == 0

    assert started == [("fedmm", 0), ("local", 1), ("fedmm", 1)]
    both = [json.loads(path.read_text(encoding="utf-8")) for path in (whole, parts)]
    for part in ("records", "summary", "settings", "failed"):
        assert both[0][part] == both[1][part]
    # Asked for less, it keeps what it has.
    assert compare(consortium, parts, *one, "--resume", methods="fedmm") == 0
    assert len(started) == 3
    assert json.loads(parts.read_text(encoding="utf-8"))["records"] == both[0]["records"]


def test_a_comparison_that_stops_half_way_has_kept_the_runs_that_ended(
    consortium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(plan: Plan, tasks: list[tuple[str, int]]) -> Iterator[Run]:
        yield next(runs_of(plan, tasks))
        raise KeyboardInterrupt

    monkeypatch.setattr("polyclinic.cli.compare.runs_of", stops)
    out = tmp_path / "out.json"
    with contextlib.suppress(KeyboardInterrupt):
        compare(consortium, out, "--workers", "1")
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {r["method"] for r in result["records"]} == {"local"}

    monkeypatch.undo()
    started = trained(monkeypatch)
    assert compare(consortium, out, "--workers", "1", "--resume") == 0
    assert started == [("fedmm", 0)]


@pytest.mark.parametrize(
    "change", ["--rounds 2", "--seed 4", "--no-pooled", "site", "table", "method"]
)
def test_it_does_not_go_on_from_other_settings_or_patients(
    change: str, consortium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(consortium, tmp_path / "sites")
    sites, out = tmp_path / "sites", tmp_path / "out.json"
    more = ["--workers", "1"]
    assert compare(sites, out, *more, methods="local") == 0
    before = out.read_bytes()
    started = trained(monkeypatch)
    if change == "site":
        manifest = sites / "site-2" / "manifest.csv"
        manifest.write_text(manifest.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    elif change == "table":
        files = sorted((sites / "site-2").iterdir())
        table = next(p for p in files if p.suffix in (".csv", ".parquet") and p.stem != "manifest")
        table.write_bytes(table.read_bytes() + b"\n")
    elif change == "method":
        other = dataclasses.replace(METHODS["local"], client_args={"lr": 0.1})
        monkeypatch.setitem(METHODS, "local", other)
    else:
        more += change.split()
    assert compare(sites, out, *more, "--resume", methods="local") == 4
    assert not started
    assert out.read_bytes() == before


def spoiled(**parts: Any) -> bytes:
    """A small file of one run, with parts in place of its own."""
    row = {"method": "local", "repeat": 0}
    score = row | {"site": "site-1", "test": "own", "metric": "auroc", "value": 0.5}
    settings = {"study": "demo", "repeats": 1, "methods": {"local": {}}}
    whole = {"records": [score], "seconds": [row | {"seconds": 1.0}], "settings": settings}
    told = {k: v(whole[k]) if callable(v) else v for k, v in parts.items()}
    return json.dumps({**whole, **told}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"settings": 3, "seconds": []}',
        b"[" * 100_000,
        spoiled(records=None),
        spoiled(records=lambda r: r + r),
        spoiled(records=lambda r: [r[0] | {"value": float("nan")}]),
        spoiled(records=lambda r: [r[0] | {"value": 1e300}]),
        spoiled(records=lambda r: [r[0] | {"repeat": "0"}]),
        spoiled(records=lambda r: [r[0] | {"method": "other"}]),
        spoiled(seconds=lambda r: [r[0] | {"seconds": None}]),
        spoiled(settings=lambda s: s | {"repeats": "many"}),
        spoiled(aside=5),
        spoiled(failed=[3]),
        spoiled(summary=5),
        spoiled(summary={"own": {"auroc": {"local": {"mean": 0.5, "minus": {"fedmm": {}}}}}}),
    ],
)
def test_what_it_cannot_go_on_from_is_one_sentence(
    content: bytes, consortium: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    out.write_bytes(content)
    assert compare(consortium, out, "--resume") == 4
    assert "that 'polyclinic compare --json' wrote" in " ".join(capsys.readouterr().err.split())
    assert out.read_bytes() == content
