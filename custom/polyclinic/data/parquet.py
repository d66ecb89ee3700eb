"""Parquet tables, measured by what their footer states before anything is unpacked.

A file of a few kilobytes can state billions of equal values. A table is refused when it states
more than ``MAX_ROWS`` rows or more than ``MAX_BYTES`` in the columns that are asked for: as
stored without compression, and as 8 bytes a value.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polyclinic.data.identity import as_id
from polyclinic.data.table import missing_key, refused, require_distinct, require_file

MAX_ROWS = 5_000_000
MAX_BYTES = 4 << 30
_VALUE_BYTES = 8
# Beside Arrow's own errors: undecodable text is a ValueError, hostile metadata the others.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
)


@dataclass(frozen=True)
class ParquetTable:
    """The columns that were asked for.

    Attributes:
        header: every column of the table.
        ids: patient id of each row, "" where blank.
        columns: chunked arrays by name, without the patient column.
    """

    header: tuple[str, ...]
    ids: list[str]
    columns: Mapping[str, Any] = field(repr=False)


def read_parquet(path: Path, key: str, wanted: Collection[str]) -> ParquetTable:
    """The patient column and the wanted columns that the table has, in the table's order.

    Raises:
        DataRejected: damaged, without patient column, or larger than this module allows.
    """
    with faults(path):
        schema = pq.read_schema(path)
        require_distinct(tuple(schema.names), path)
        at = _key_column(schema, path, key)
        present = [n for n in schema.names if n in wanted and n != at]
        _require_bounded(path, {at, *present})
        # A repeated text stays one text and numbers that point to it.
        repeated = [n for n in (at, *present) if _is_text(schema.field(n).type)]
        table = pq.read_table(
            path, columns=[at, *present], use_threads=False, read_dictionary=repeated
        )
        table.validate(full=True)  # a damaged page may point outside its own dictionary
        ids = texts(table.column(at))
        return ParquetTable(tuple(schema.names), ids, {n: table.column(n) for n in present})


def texts(stored: Any) -> list[str]:
    """The cells of a column as ids are read, "" for null."""
    cells: list[str] = []
    for known, places in encoded(stored):
        spelled = [as_id(v) for v in known]
        cells += ["" if i is None else spelled[i] for i in places]
    return cells


def encoded(stored: Any) -> Iterator[tuple[list[Any], list[int | None]]]:
    """The different values of each chunk of a column and, by row, which one it is."""
    try:
        chunks = stored if pa.types.is_dictionary(stored.type) else stored.dictionary_encode()
    except pa.ArrowNotImplementedError:  # lists and structs have no dictionary
        values = stored.to_pylist()
        yield values, list(range(len(values)))
        return
    for chunk in chunks.chunks:
        yield chunk.dictionary.to_pylist(), chunk.indices.to_pylist()


def _is_text(kind: Any) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)
    )


def _require_bounded(path: Path, columns: set[str]) -> None:
    """Refuse a table whose footer states more rows or bytes than are unpacked here.

    Raises:
        DataRejected: ``table_too_large``.
    """
    stated = pq.read_metadata(path)
    stored = values = 0
    for group in (stated.row_group(i) for i in range(stated.num_row_groups)):
        for chunk in (group.column(i) for i in range(group.num_columns)):
            parts = chunk.path_in_schema.split(".")  # a list's values lie below its column
            if any(".".join(parts[: i + 1]) in columns for i in range(len(parts))):
                stored += chunk.total_uncompressed_size
                values += chunk.num_values
    if stated.num_rows > MAX_ROWS or max(stored, values * _VALUE_BYTES) > MAX_BYTES:
        raise refused(
            "table_too_large",
            path,
            expected=f"at most {MAX_ROWS} rows and {MAX_BYTES >> 30} GiB without compression",
            got="a footer that states more",
            remedy="keep one row per patient, and the columns of the study's panel",
        )


def _key_column(schema: Any, path: Path, key: str) -> str:
    """The stored column that holds the patient id: the key itself, else the table's one index.

    Raises:
        DataRejected: ``no_patient_column``.
    """
    if key in schema.names:
        return key
    metadata = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    index = [i for i in metadata.get("index_columns", []) if isinstance(i, str)]
    if len(index) == 1 and index[0] in schema.names:
        return index[0]
    raise missing_key(path, (key,))


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turn everything that a damaged parquet file raises into one refusal.

    Raises:
        DataRejected: ``unreadable_table``.
    """
    require_file(path)
    try:
        yield
    except (*_DAMAGED, pa.ArrowException) as error:
        raise refused(
            "unreadable_table",
            path,
            expected="a parquet file that can be opened",
            got=type(error).__name__,
            remedy="write the table again",
        ) from None
