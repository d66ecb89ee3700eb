"""Long tables in chunks of rows: millions of measurements in the memory of some thousands.

What is refused, and how a cell is read, is as in ``polyclinic.data.table``.
"""

from pathlib import Path

from polyclinic.data.chunk import Stream
from polyclinic.data.parquet_stream import parquet_stream
from polyclinic.data.table import PARQUET
from polyclinic.data.text_stream import text_stream


def open_stream(path: Path, keys: tuple[str, ...]) -> Stream:
    """The table, which has one of these key columns.

    Raises:
        DataRejected: see ``polyclinic.data.quarantine.TABLE_REASONS``.
    """
    return parquet_stream(path, keys) if path.suffix in PARQUET else text_stream(path, keys)
