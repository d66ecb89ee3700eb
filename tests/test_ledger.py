"""A ledger is in order, whole up to its last line, and shows when somebody changed it."""

import json
from pathlib import Path

import pytest

from polyclinic.errors import CheckpointError
from polyclinic.ledger import Ledger, read_ledger


def _written(path: Path, lines: int = 3) -> Ledger:
    ledger = Ledger(path)
    for number in range(lines):
        ledger.append({"kind": "round", "round": number})
    return ledger


def test_records_come_back_in_order(tmp_path: Path) -> None:
    _written(tmp_path / "l")
    assert [r["round"] for r in read_ledger(tmp_path / "l")] == [0, 1, 2]


def test_a_ledger_that_is_opened_again_goes_on_in_the_same_chain(tmp_path: Path) -> None:
    _written(tmp_path / "l", 2)
    Ledger(tmp_path / "l").append({"kind": "end"})
    assert [r["kind"] for r in read_ledger(tmp_path / "l")] == ["round", "round", "end"]


def test_a_torn_last_line_is_cut_off_and_the_rest_stands(tmp_path: Path) -> None:
    _written(tmp_path / "l")
    whole = (tmp_path / "l").read_bytes()
    (tmp_path / "l").write_bytes(whole + b'{"kind": "rou')
    assert len(read_ledger(tmp_path / "l")) == 3
    Ledger(tmp_path / "l").append({"kind": "end"})
    assert [r["kind"] for r in read_ledger(tmp_path / "l")][-1] == "end"


@pytest.mark.parametrize("edit", ["change", "drop", "swap"])
def test_a_changed_dropped_or_moved_line_is_noticed(tmp_path: Path, edit: str) -> None:
    path = tmp_path / "l"
    _written(path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if edit == "change":
        first = json.loads(lines[0])
        lines[0] = json.dumps({**first, "round": 7}, sort_keys=True) + "\n"
    elif edit == "drop":
        del lines[1]
    else:
        lines[0], lines[1] = lines[1], lines[0]
    path.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(CheckpointError, match="unbroken chain"):
        read_ledger(path)


def test_the_mirror_gets_the_same_lines_as_they_are_written(tmp_path: Path) -> None:
    _written(tmp_path / "a" / "l", 1)
    ledger = Ledger(tmp_path / "a" / "l", mirror=tmp_path / "b" / "l")
    ledger.append({"kind": "end"})
    assert (tmp_path / "a" / "l").read_bytes() == (tmp_path / "b" / "l").read_bytes()


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    ledger = _written(tmp_path / "l", 1)
    with pytest.raises(ValueError, match="JSON"):
        ledger.append({"kind": "round", "metric": float("nan")})
    assert len(read_ledger(tmp_path / "l")) == 1


def test_no_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ledger\.jsonl"):
        read_ledger(tmp_path / "none")
