"""Parquet tables in chunks of rows, measured by what their footer states."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polyclinic.data.chunk import ROWS, Cells, Chunk
from polyclinic.data.identity import as_id
from polyclinic.data.parquet import MAX_BYTES, encoded, faults
from polyclinic.data.table import missing_key, refused, require_distinct

MAX_STREAM_ROWS = 1 << 28


@dataclass(frozen=True)
class ParquetStream:
    """A parquet table on disk."""

    path: Path = field(repr=False)
    header: tuple[str, ...]
    decimal_comma: bool = False

    def chunks(self, key: str, columns: Iterable[str]) -> Iterator[Chunk]:
        """The rows in chunks of ``ROWS``.

        Raises:
            DataRejected: ``unreadable_table``.
        """
        wanted = [c for c in self.header if c == key or c in set(columns)]
        first = 2
        with faults(self.path), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(ROWS, columns=wanted, use_threads=False):
                batch.validate(full=True)  # a damaged page may point outside its dictionary
                stored = dict(zip(batch.schema.names, batch.columns, strict=True))
                ids = [as_id(v) for v in _objects(stored[key])]
                cells = {n: _cells(a) for n, a in stored.items() if n != key}
                yield Chunk(range(first, first + len(ids)), ids, cells)
                first += len(ids)


def parquet_stream(path: Path, keys: tuple[str, ...]) -> ParquetStream:
    """The parquet table, measured by its footer."""
    with faults(path):
        header = tuple(pq.read_schema(path).names)
        stated = pq.read_metadata(path)
        groups = [stated.row_group(i).total_byte_size for i in range(stated.num_row_groups)]
        rows = int(stated.num_rows)
    require_distinct(header, path)
    if not set(keys) & set(header):
        raise missing_key(path, keys)
    if rows > MAX_STREAM_ROWS or max(groups, default=0) > MAX_BYTES:
        raise refused(
            "table_too_large",
            path,
            expected=f"at most {MAX_STREAM_ROWS} rows, in groups of at most {MAX_BYTES >> 30} GiB",
            got="a footer that states more",
            remedy="keep the measurements of the study's panel, in smaller row groups",
        )
    return ParquetStream(path, header)


def _objects(stored: Any) -> list[Any]:
    """The values of one column of a batch; equal ones are one object."""
    values: list[Any] = []
    for known, places in encoded(pa.chunked_array([stored])):
        values += [None if i is None else known[i] for i in places]
    return values


def _cells(stored: Any) -> Cells:
    """Numbers as float64 with NaN for null, everything else as text with "" for null."""
    kind = stored.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.array(stored.cast(pa.float64(), safe=False).fill_null(np.nan))
    return ["" if v is None else str(v).strip() for v in _objects(stored)]
