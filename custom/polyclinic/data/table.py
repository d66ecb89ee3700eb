"""Text and parquet tables, read so that a strange file is equal to its clean twin or refused.

Hospitals export tables with byte-order marks, UTF-16, Latin-1, CRLF, semicolons and decimal
commas. Each is recognised; what is not (NUL bytes, open quotes, repeated columns) is a
``DataRejected`` for the whole table. A row of the wrong length is left out and counted.
"""

import codecs
import csv
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.data.quarantine import file_hash, is_pipe
from polyclinic.errors import DataRejected

MAX_BYTES = 1 << 30
MAX_CELL = 1 << 24
DELIMITERS = (",", ";", "\t", "|")
PARQUET = frozenset({".parquet", ".pq"})
# Longest marks first: the UTF-32 mark begins with the UTF-16 mark.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True)
class TextTable:
    """A decoded table whose rows are read one at a time, for tables wider than memory likes.

    Attributes:
        header: column names, stripped.
        delimiter: that separates the cells.
    """

    header: tuple[str, ...]
    delimiter: str
    text: str = field(repr=False)
    raw: bytes = field(repr=False)

    def rows(self) -> Iterator[tuple[int, list[str] | None]]:
        """Line and stripped cells of each row below the header; None where the length differs.

        Raises:
            DataRejected: ``malformed_table``.
        """
        rows = _cells(self.text, self.delimiter)
        try:
            next(rows, None)
            for line, cells in rows:
                fits = len(cells) == len(self.header)
                yield line, [c.strip() for c in cells] if fits else None
        except csv.Error as error:
            raise refused(
                "malformed_table",
                self.raw,
                expected="rows whose quotes close and cells of reasonable length",
                got=str(error),
                remedy="export the table again",
            ) from None

    def without(self, columns: tuple[str, ...]) -> DataRejected:
        """The error for a table that lacks a column it needs."""
        return missing_key(self.raw, columns)


def refused(
    reason: str, source: bytes | Path, *, expected: str, got: str, remedy: str
) -> DataRejected:
    """The error that refuses a whole table, with the hash of its bytes."""
    digest = (
        file_hash(source) if isinstance(source, Path) else hashlib.sha256(source).hexdigest()[:12]
    )
    return DataRejected(reason, file_hash=digest, expected=expected, got=got, remedy=remedy)


def require_file(path: Path) -> None:
    """Refuse what would never end, before it is opened.

    Raises:
        DataRejected: a pipe or a device stands in the table's place.
    """
    if is_pipe(path):
        raise refused(
            "unreadable_table",
            b"",
            expected="a table that can be opened",
            got="a pipe or a device",
            remedy="put the table itself in its place",
        )


def read_bytes(path: Path) -> bytes:
    """The bytes of a table.

    Raises:
        DataRejected: absent, unreadable, or larger than ``MAX_BYTES``.
    """
    require_file(path)
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise refused(
            "unreadable_table",
            b"",
            expected="a table that can be opened",
            got=type(error).__name__,
            remedy="check the name in polyclinic.yaml and the file's permissions",
        ) from None
    if size > MAX_BYTES:
        raise refused(
            "table_too_large",
            b"",
            expected=f"at most {MAX_BYTES} bytes of text",
            got=f"{size} bytes",
            remedy="store the table as parquet",
        )
    return raw


def decode(raw: bytes) -> str:
    """The text of a table: by its byte-order mark, else UTF-8, else Latin-1.

    Raises:
        DataRejected: undecodable, or with NUL or other control characters.
    """
    marks = [(mark, name) for mark, name in MARKS if raw.startswith(mark)]
    mark, encoding = marks[0] if marks else (b"", "utf-8")
    body = raw[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        if mark:
            raise refused(
                "unreadable_table",
                raw,
                expected=f"the {encoding} text that its byte-order mark announces",
                got=error.reason,
                remedy="export the table again as UTF-8",
            ) from None
        text = raw.decode("latin-1")
    found = CONTROL.search(text)
    if found:
        raise refused(
            "control_characters",
            raw,
            expected="a text table",
            got=f"control character U+{ord(found.group()):04X}",
            remedy="export the table again as UTF-8 text",
        )
    return text


def _cells(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row that is not blank."""
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for cells in reader:
        if cells:
            yield reader.line_num, cells


def header_of(text: str, delimiter: str) -> tuple[str, ...]:
    """The header as this delimiter reads it; empty when it cannot."""
    try:
        return tuple(c.strip() for c in next(_cells(text, delimiter), (0, []))[1])
    except csv.Error:
        return ()


def delimiter_of(text: str, keys: tuple[str, ...]) -> str:
    """The delimiter that shows a key column and the most columns; "" when none shows a key."""
    headers = {d: header_of(text, d) for d in DELIMITERS}
    showing = [d for d in DELIMITERS if set(keys) & set(headers[d])]
    return max(showing, key=lambda d: len(headers[d])) if showing else ""


def parse(raw: bytes, keys: tuple[str, ...]) -> TextTable:
    """The text table whose header has one of these key columns.

    Raises:
        DataRejected: see ``polyclinic.data.quarantine.TABLE_REASONS``.
    """
    text = decode(raw)
    delimiter = delimiter_of(text, keys)
    if not delimiter:
        raise missing_key(raw, keys)
    header = header_of(text, delimiter)
    require_distinct(header, raw)
    return TextTable(header, delimiter, text, raw)


def missing_key(source: bytes | Path, keys: tuple[str, ...]) -> DataRejected:
    """The error for a table without its patient or slide column."""
    return refused(
        "no_patient_column",
        source,
        expected=f"a column named {' or '.join(repr(k) for k in keys)}",
        got="a header without it",
        remedy="rename the column, or set patient_column in polyclinic.yaml",
    )


def require_distinct(header: tuple[str, ...], source: bytes | Path) -> None:
    """Refuse a header in which a named column repeats.

    Raises:
        DataRejected: ``duplicate_columns``, with the number of repeats.
    """
    named = [c for c in header if c]
    if len(set(named)) != len(named):
        raise refused(
            "duplicate_columns",
            source,
            expected="column names that differ",
            got=f"{len(named) - len(set(named))} repeated name(s)",
            remedy="rename or drop the repeated columns",
        )
