"""A parquet table is measured before it is unpacked."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyclinic.data import parquet
from polyclinic.data.manifest import read_manifest
from polyclinic.data.parquet import read_parquet, texts
from polyclinic.errors import DataRejected


def test_repeated_texts_are_read_in_their_rows(tmp_path) -> None:
    cells = ["b", "a", None, "a", " b "]
    pq.write_table(pa.table({"id": ["1", "2", "3", "4", "5"], "x": cells}), tmp_path / "t.parquet")
    table = read_parquet(tmp_path / "t.parquet", "id", {"x"})
    assert table.ids == ["1", "2", "3", "4", "5"]
    assert texts(table.columns["x"]) == ["b", "a", "", "a", "b"]


def test_more_rows_than_allowed_are_refused_before_reading(tmp_path, monkeypatch) -> None:
    """One more row than allowed, of one repeated id: a few kilobytes on disk."""
    rows = parquet.MAX_ROWS + 1
    ids = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["p"])
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"patient_id": ids}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(parquet.pq, "read_table", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(DataRejected) as refusal:
        read_parquet(path, "patient_id", set())
    assert refusal.value.reason == "table_too_large"


def test_only_the_columns_asked_for_count(tmp_path, monkeypatch) -> None:
    """Ten rows at 8 bytes: 80 for the ids, 80 more for a column of numbers."""
    path = tmp_path / "t.parquet"
    ids = [f"p{i}" for i in range(10)]
    lists = [[0.0] * 10] * 10
    pq.write_table(pa.table({"id": ids, "x": np.zeros(10), "list": lists}), path)
    monkeypatch.setattr(parquet, "MAX_BYTES", 700)
    assert len(read_parquet(path, "id", {"x"}).ids) == 10
    with pytest.raises(DataRejected):
        read_parquet(path, "id", {"list"})  # 100 values of 8 bytes


@pytest.mark.parametrize("metadata", [b"[]", b"null", b"[" * 200_000, b'{"index_columns":5}', b"{"])
def test_hostile_pandas_metadata_refuses_the_table(tmp_path, metadata: bytes) -> None:
    table = pa.table({"x": ["a"]}).replace_schema_metadata({b"pandas": metadata})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataRejected):
        read_parquet(tmp_path / "t.parquet", "patient_id", set())


def test_a_manifest_is_measured_too(hospital, monkeypatch) -> None:
    pq.write_table(
        pa.table({"patient_id": ["a", "b"], "outcome": ["yes", "no"]}),
        hospital.root / "manifest.parquet",
    )
    hospital.vector("v", {"a": (1, 2, 3)})
    source = hospital.settings().cohort("tiny").model_copy(update={"manifest": "manifest.parquet"})
    assert len(read_manifest(source, hospital.study()).patients) == 2
    monkeypatch.setattr(parquet, "MAX_ROWS", 1)
    with pytest.raises(DataRejected):
        read_manifest(source, hospital.study())
