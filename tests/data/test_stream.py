"""Long tables come in pieces that say where they stood."""

import numpy as np
import pandas as pd
import pytest

from polyclinic.data import parquet_stream, text_stream
from polyclinic.data.stream import open_stream
from polyclinic.errors import DataRejected


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch) -> None:
    monkeypatch.setattr(text_stream, "ROWS", 3)
    monkeypatch.setattr(text_stream, "BLOCK", 16)
    monkeypatch.setattr(parquet_stream, "ROWS", 3)


def test_text_in_pieces_keeps_its_lines_cells_and_ragged_rows(tmp_path) -> None:
    path = tmp_path / "t.csv"
    rows = [f"p{i}, {i} ,é" for i in range(7)]
    rows.insert(4, "short")
    path.write_text("id,x,y\n" + "\n".join(rows) + "\n", encoding="utf-8")
    chunks = list(open_stream(path, ("id",)).chunks("id", ["x"]))
    assert [list(c.lines) for c in chunks] == [[2, 3, 4], [5, 7, 8], [9]]
    assert [c.ragged for c in chunks] == [(), (6,), ()]
    assert [i for c in chunks for i in c.ids] == [f"p{i}" for i in range(7)]
    assert [x for c in chunks for x in c.columns["x"]] == [str(i) for i in range(7)]


def test_only_ragged_rows_are_told_too(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,x\na\nb\n")
    (chunk,) = open_stream(path, ("id",)).chunks("id", ["x"])
    assert (chunk.ids, chunk.ragged) == ([], (2, 3))


def test_a_quoted_cell_over_several_lines_is_one_cell(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('id,x\na,"1\n2"\nb,3\n')
    (chunk,) = open_stream(path, ("id",)).chunks("id", ["x"])
    assert chunk.columns["x"] == ["1\n2", "3"]
    assert list(chunk.lines) == [3, 4]  # where each row ends


def test_parquet_in_pieces_tells_numbers_from_text(tmp_path) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"id": [1, 2, 3, 4], "x": [1.5, None, 3, 4], "y": ["a", None, " b", "a"]})
    frame.to_parquet(path)
    first, second = open_stream(path, ("id",)).chunks("id", ["x", "y"])
    assert (list(first.lines), list(second.lines)) == ([2, 3, 4], [5])
    assert (first.ids, second.ids) == (["1", "2", "3"], ["4"])
    np.testing.assert_array_equal(first.columns["x"], [1.5, np.nan, 3])
    assert first.columns["y"] == ["a", "", "b"]


def test_what_is_larger_than_it_may_be_is_refused_by_its_footer(tmp_path, monkeypatch) -> None:
    frame = pd.DataFrame({"id": np.zeros(100, dtype=int)})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr(parquet_stream, "MAX_STREAM_ROWS", 99)
    monkeypatch.setattr(text_stream, "MAX_STREAM_BYTES", 99)
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(DataRejected) as refusal:
            open_stream(tmp_path / name, ("id",))
        assert refusal.value.reason == "table_too_large"


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_table_that_is_not_there_is_refused(tmp_path, name: str) -> None:
    with pytest.raises(DataRejected) as refusal:
        open_stream(tmp_path / name, ("id",))
    assert refusal.value.reason == "unreadable_table"
    assert name not in str(refusal.value)
