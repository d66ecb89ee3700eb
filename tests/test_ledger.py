"""A ledger is in order, whole up to its last line, and shows when somebody changed it."""

import json
import threading
from pathlib import Path

import pytest

from polyclinic import ledger as module
from polyclinic.errors import CheckpointError
from polyclinic.ledger import Ledger, head_of, read_ledger


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
    assert len(read_ledger(tmp_path / "b" / "l")) == 2


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    ledger = _written(tmp_path / "l", 1)
    with pytest.raises(ValueError, match="JSON"):
        ledger.append({"kind": "round", "metric": float("nan")})
    assert len(read_ledger(tmp_path / "l")) == 1


def test_no_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ledger\.jsonl"):
        read_ledger(tmp_path / "none")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.mark.parametrize("edit", ["change", "drop one", "drop two", "drop all", "delete", "add"])
def test_a_change_at_the_end_is_noticed(tmp_path: Path, edit: str) -> None:
    path = tmp_path / "l"
    _written(path)
    lines = _lines(path)
    if edit == "change":
        lines[-1] = lines[-1].replace('"round": 2', '"round": 3')
    elif edit == "add":
        # Two more lines of a good chain, of which the head knows nothing: no crash leaves that.
        head = head_of(path).read_bytes()
        _written(path, 2)
        head_of(path).write_bytes(head)
        lines = _lines(path)
    else:
        lines = lines[: {"drop one": 2, "drop two": 1}.get(edit, 0)]
    path.write_text("".join(lines), encoding="utf-8")
    if edit == "delete":
        path.unlink()
    else:
        with pytest.raises(CheckpointError, match="changed, dropped or moved"):
            read_ledger(path)
    with pytest.raises(CheckpointError, match="changed, dropped or moved"):
        Ledger(path)


@pytest.mark.parametrize("lines", [1, 3])
def test_a_line_whose_head_a_crash_prevented_stands_and_the_chain_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    path = tmp_path / "l"
    ledger = _written(path, lines - 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            ledger.append({"kind": "round"})
    assert len(read_ledger(path)) == lines
    with path.open("ab") as stream:
        stream.write(b'{"kind": "rou')
    Ledger(path).append({"kind": "end"})
    assert [r["kind"] for r in read_ledger(path)] == ["round"] * lines + ["end"]


def test_a_line_whose_head_has_no_room_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "a" / "l", tmp_path / "b" / "l"]
    ledger = Ledger(places[0], mirror=places[1])
    ledger.append({"kind": "start"})

    def full(*_: object) -> None:
        raise CheckpointError(expected="room", got="none", remedy="free it")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", full)
        with pytest.raises(CheckpointError, match="room"):
            ledger.append({"kind": "round"})
    ledger.append({"kind": "end"})
    assert [[r["kind"] for r in read_ledger(p)] for p in places] == [["start", "end"]] * 2


@pytest.mark.parametrize("head", [None, b"", b"[]", b'{"lines": "x", "sha256": ""}', b"\xff"])
def test_a_head_that_is_gone_or_damaged_is_told(tmp_path: Path, head: bytes | None) -> None:
    path = tmp_path / "l"
    _written(path)
    if head is None:
        head_of(path).unlink()
    else:
        head_of(path).write_bytes(head)
    with pytest.raises(CheckpointError, match=r"l\.head"):
        read_ledger(path)


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"[" * 100_000 + b"\n"], ids=["utf8", "deep"])
def test_a_line_that_no_parser_bears_is_told_as_a_change(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "l"
    _written(path)
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(CheckpointError, match="unbroken chain"):
        read_ledger(path)


def test_a_reader_beside_a_writer_sees_a_whole_chain(tmp_path: Path) -> None:
    path = tmp_path / "l"
    ledger = _written(path, 1)
    writer = threading.Thread(target=lambda: [ledger.append({"kind": "round"}) for _ in range(60)])
    writer.start()
    seen = [len(read_ledger(path))]
    while writer.is_alive():
        seen.append(len(read_ledger(path)))
    writer.join()
    assert seen == sorted(seen)
    assert len(read_ledger(path)) == 61
