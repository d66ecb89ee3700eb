"""Real tables, as they are downloaded, through the same reader."""

from pathlib import Path

import pandas as pd
import pytest

from polyclinic.data.field import named
from polyclinic.data.values import read_values

pytestmark = pytest.mark.data


@pytest.mark.parametrize(
    ("table", "patients", "width"), [("brca_hif", 904, 607), ("brca_mut", 956, None)]
)
def test_a_real_table_reads_as_pandas_reads_it(shared_data: Path, table, patients, width) -> None:
    path = shared_data / "tcga_brca" / f"{table}.parquet"
    frame = pd.read_parquet(path)
    columns = [str(c) for c in frame.columns]
    found = read_values(path, "patient_id", named(columns))
    assert found.values.shape == (patients, width or len(columns))
    assert found.ids == [str(i) for i in frame.index]
    expected = frame.astype("float32").to_numpy()
    same = (found.values == expected) | (pd.isna(found.values) & pd.isna(expected))
    assert same.all()


def test_a_csv_of_thousands_of_columns_equals_its_parquet(shared_data: Path, tmp_path) -> None:
    path = shared_data / "tcga_brca" / "brca_rnaseq.parquet"
    frame = pd.read_parquet(path).head(20).rename_axis("patient_id").astype("float32")
    frame.to_csv(tmp_path / "rna.csv", sep=";", decimal=",", encoding="utf-16")
    frame.to_parquet(tmp_path / "rna.parquet")
    columns = [str(c) for c in frame.columns]
    a, b = (
        read_values(tmp_path / f"rna.{e}", "patient_id", named(columns)) for e in ("csv", "parquet")
    )
    assert a.ids == b.ids
    assert ((a.values == b.values) | (pd.isna(a.values) & pd.isna(b.values))).all()
