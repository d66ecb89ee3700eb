"""The lines of a run that a person reads while it goes."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

POC = Path(__file__).parents[2] / "poc"


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.syspath_prepend(str(POC))
    for name in ("watch", "services", "startup"):
        sys.modules.pop(name, None)
    import watch

    return watch


def round_(t, **more):
    metrics = {"a": {"validation/auroc": 0.5, "train/loss": 1.0}, "b": {"validation/auroc": 0.7}}
    record = {"kind": "round", "round": t, "status": "folded", "heard": ["a", "b"]}
    return record | {"metrics": metrics, "seconds": 0.4} | more


def test_a_round_tells_number_sites_heard_and_score(watch):
    line = watch.describe(round_(3), 12)
    assert line.startswith("round   3 of 12   2 sites heard")
    assert "validation AUROC 0.600 (a 0.500  b 0.700)" in line  # the mean of .5 and .7
    assert "loss 1.000" in line


def test_a_round_of_a_segmentation_tells_dice_and_whether_the_anchor_step_counted(watch):
    metrics = {"a": {"validation/dice": 0.5}, "b": {"validation/dice": 0.7}}
    line = watch.describe(round_(3, metrics=metrics, anchor={"status": "absorbed"}), 12)
    assert "validation Dice 0.600 (a 0.500  b 0.700)" in line
    assert "anchor" not in line
    kept = {"status": "kept_last", "reason": "late"}
    assert "anchor step kept the last values (late)" in watch.describe(round_(3, anchor=kept), 12)


def test_every_answer_that_did_not_count_is_in_the_line(watch):
    line = watch.describe(
        round_(1, status="below_quorum", refused={"c": "step"}, late=["d"], lost=[]), 2
    )
    assert "below the quorum" in line
    assert "refused: c (step)" in line
    assert "late: d" in line
    assert "lost" not in line


def test_the_end_of_a_failed_run_gives_its_reason(watch):
    assert watch.describe({"kind": "end", "status": "failed_quorum", "reason": "two left"}, 2) == (
        "run failed_quorum: two left"
    )


def test_only_whole_new_lines_are_read(watch, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    watcher = watch.Watcher(ledger, lambda: "RUNNING")
    assert watcher.news() == []
    ledger.write_text('{"kind": "start"}\n{"kind": "cen')
    assert watcher.news() == [{"kind": "start"}]
    assert watcher.news() == []
    ledger.write_text('{"kind": "start"}\n{"kind": "census"}\n')
    assert watcher.news() == [{"kind": "census"}]


def test_following_ends_with_the_run(watch, tmp_path, capsys):
    ledger = tmp_path / "ledger.jsonl"
    records = [{"kind": "start", "rounds": 1}, round_(1), {"kind": "end", "status": "completed"}]
    ledger.write_text("".join(json.dumps(r) + "\n" for r in records))
    watch.Watcher(ledger, lambda: "RUNNING").follow()
    out = capsys.readouterr().out
    assert "round   1 of 1" in out
    assert "run completed" in out


def test_a_failed_run_is_a_failed_step(watch, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(json.dumps({"kind": "end", "status": "failed_quorum"}) + "\n")
    with pytest.raises(watch.PocError, match="failed_quorum"):
        watch.Watcher(ledger, lambda: "RUNNING").follow()


def test_a_job_that_ended_without_a_ledger_is_told(watch, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SILENCE_S", 0.0)
    watcher = watch.Watcher(tmp_path / "ledger.jsonl", lambda: "FINISHED:ABNORMAL")
    with pytest.raises(watch.PocError, match="ABNORMAL"):
        watcher.follow()


def test_on_a_terminal_a_line_is_broken_between_words_and_nowhere_else(watch, monkeypatch):
    line = watch.describe(round_(8), 12)
    console = Console(force_terminal=True, width=80)
    monkeypatch.setattr(watch.output, "screen", console)
    lines = watch.shaped(line).split("\n")
    assert len(lines) == 2
    assert all(len(part) <= 80 for part in lines)
    assert " ".join(" ".join(lines).split()) == " ".join(line.split())
    monkeypatch.setattr(watch.output, "screen", Console(force_terminal=False, width=80))
    assert watch.shaped(line) == "  " + line


@pytest.mark.parametrize("width", [80, 110])
def test_no_line_of_a_round_carries_what_waits(watch, tmp_path, monkeypatch, width):
    """Lines and spinner on one terminal: what is printed after the first line is lines alone."""
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=width, highlight=False)
    monkeypatch.setattr(watch.output, "screen", console)
    monkeypatch.setattr(watch.output, "errors", console)
    ledger = tmp_path / "ledger.jsonl"
    census = {"kind": "census", "sites": {"a": {"modalities": ["he"]}}}
    records = [{"kind": "start", "rounds": 2}, census, round_(1), round_(2)]
    records.append({"kind": "end", "status": "completed"})
    ledger.write_text("".join(json.dumps(r) + "\n" for r in records))
    watch.Watcher(ledger, lambda: "RUNNING").follow()
    before, mark, after = terminal.getvalue().partition("  sites: a (he)")
    assert "waiting" in before
    assert mark
    assert "waiting" not in after
    assert "round   2 of 2" in after
