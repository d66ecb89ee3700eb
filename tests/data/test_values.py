import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyclinic.data.cell import number
from polyclinic.data.field import named
from polyclinic.data.identity import as_id
from polyclinic.data.values import read_values
from polyclinic.errors import DataRejected


def written(tmp_path, text: str):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "NaN", "null", "None", ".", "-"])
def test_a_blank_cell_is_absent(cell: str) -> None:
    value, cause = number(cell, decimal_comma=False)
    assert math.isnan(value)
    assert cause == "blank"


@pytest.mark.parametrize("cell", ["forty", "045Y", "1_000", "1,5", "0x10"])
def test_text_is_absent_and_not_guessed(cell: str) -> None:
    value, cause = number(cell, decimal_comma=False)
    assert math.isnan(value)
    assert cause == "text"


def test_decimal_commas_are_numbers_between_semicolons_only(tmp_path) -> None:
    table = read_values(
        written(tmp_path, "patient_id;x\np1;-1,5\np2;2e3\n"), "patient_id", named(["x"])
    )
    np.testing.assert_array_equal(table.values, np.float32([[-1.5], [2000]]))


def test_causes_of_absence_are_counted_apart(tmp_path) -> None:
    text = "patient_id,x,y\np1,,old\np2,inf,1e60\np3,nan,3\np4,-inf,4\n"
    table = read_values(written(tmp_path, text), "patient_id", named(["x", "y"]))
    # x: blank, inf, nan, -inf; y: text, beyond float32, two numbers.
    assert table.absent == {"blank": 2, "text": 1, "infinite": 3}
    nan = np.nan
    expected = np.float32([[nan, nan], [nan, nan], [nan, 3], [nan, 4]])
    np.testing.assert_array_equal(table.values, expected)


def test_columns_come_in_the_order_asked_for(tmp_path) -> None:
    table = read_values(
        written(tmp_path, "y,patient_id,more,x\n2,p1,9,1\n"), "patient_id", named(["x", "z", "y"])
    )
    np.testing.assert_array_equal(table.values, np.float32([[1, np.nan, 2]]))
    assert table.missing == ("z",)


def test_parquet_equals_csv(tmp_path) -> None:
    frame = pd.DataFrame({"patient_id": ["p1", "p2"], "x": [1.5, None], "y": [3, 4]})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    a, b = (
        read_values(tmp_path / f"t.{e}", "patient_id", named(["x", "y"]))
        for e in ("parquet", "csv")
    )
    np.testing.assert_array_equal(a.values, b.values)
    assert a.ids == b.ids == ["p1", "p2"]
    assert a.absent == b.absent == {"blank": 1}


def test_a_parquet_index_serves_as_patient_column(tmp_path) -> None:
    frame = pd.DataFrame({"x": [1, 2]}, index=pd.Index(["p1", "p2"], name="barcode"))
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_values(tmp_path / "t.parquet", "patient_id", named(["x"])).ids == ["p1", "p2"]


def test_parquet_of_every_kind_of_column(tmp_path) -> None:
    table = pa.table(
        {
            "patient_id": pa.array([1, 2, None]),
            "small": pa.array([1, -128, 3], pa.int8()),
            "flag": pa.array([True, None, False]),
            "text": pa.array(["1.5", "old", None]),
            "list": pa.array([[1], [2], None]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_values(
        tmp_path / "t.parquet", "patient_id", named(["small", "flag", "text", "list"])
    )
    nan = np.nan
    expected = np.float32([[1, 1, 1.5, nan], [-128, nan, nan, nan], [3, 0, nan, nan]])
    np.testing.assert_array_equal(found.values, expected)
    assert found.ids == ["1", "2", ""]
    assert found.absent == {"blank": 3, "text": 3}


def test_a_damaged_parquet_file_is_refused(tmp_path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"patient_id": ["p1"], "x": [1.0]}).to_parquet(path)
    whole = path.read_bytes()
    damaged = [b"", b"PAR1", whole[: len(whole) // 2], b"text", whole[:-4] + b"XXXX"]
    for raw in damaged:
        path.write_bytes(raw)
        with pytest.raises(DataRejected):
            read_values(path, "patient_id", named(["x"]))


def test_a_mutated_parquet_file_is_read_or_refused(tmp_path) -> None:
    path = tmp_path / "t.parquet"
    ids = [f"p{i}" for i in range(50)]
    pd.DataFrame({"patient_id": ids, "x": np.arange(50.0), "y": "a"}).to_parquet(path)
    whole = path.read_bytes()
    refusals = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        mutant = bytearray(whole)
        for at in rng.integers(0, len(mutant), int(rng.integers(1, 12))):
            mutant[at] = int(rng.integers(256))
        path.write_bytes(mutant)
        try:
            read_values(path, "patient_id", named(["x", "y"]))
        except DataRejected:
            refusals += 1
    assert 0 < refusals < 600


def test_ids_are_text_without_the_point_of_whole_floats() -> None:
    assert [as_id(v) for v in (7.0, "007", None, float("nan"), " p ", 3)] == [
        "7",
        "007",
        "",
        "",
        "p",
        "3",
    ]
