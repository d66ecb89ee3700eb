"""Text tables in chunks of rows: read once for their encoding and once for their rows."""

import codecs
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.data.chunk import ROWS, Chunk
from polyclinic.data.identity import as_id
from polyclinic.data.table import (
    CONTROL,
    MARKS,
    MAX_CELL,
    delimiter_of,
    header_of,
    missing_key,
    refused,
    require_distinct,
    require_file,
)

BLOCK = 1 << 20
MAX_STREAM_BYTES = 64 << 30


@dataclass(frozen=True)
class TextStream:
    """A text table on disk."""

    path: Path = field(repr=False)
    encoding: str
    header: tuple[str, ...]
    delimiter: str

    @property
    def decimal_comma(self) -> bool:
        """Whether commas in cells may be decimal points."""
        return self.delimiter == ";"

    def chunks(self, key: str, columns: Iterable[str]) -> Iterator[Chunk]:
        """The rows in chunks of ``ROWS``.

        Raises:
            DataRejected: ``malformed_table``.
        """
        at = self.header.index(key)
        places = {c: self.header.index(c) for c in columns}
        lines, rows, ragged = list[int](), list[list[str]](), list[int]()

        def made() -> Chunk:
            spelled = {c: as_id(c) for c in {r[at] for r in rows}}
            ids = [spelled[r[at]] for r in rows]
            cells = {c: [r[i].strip() for r in rows] for c, i in places.items()}
            return Chunk(tuple(lines), ids, dict(cells), tuple(ragged))

        for line, row in self._rows():
            if len(row) != len(self.header):
                ragged.append(line)
                continue
            lines.append(line)
            rows.append(row)
            if len(rows) == ROWS:
                yield made()
                lines, rows, ragged = [], [], []
        if rows or ragged:
            yield made()

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line and cells of each row below the header that is not blank."""
        csv.field_size_limit(MAX_CELL)
        with self.path.open(encoding=self.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            rows = (row for row in reader if row)
            try:
                next(rows, None)
                for row in rows:
                    yield reader.line_num, row
            except csv.Error as error:
                raise refused(
                    "malformed_table",
                    self.path,
                    expected="rows whose quotes close and cells of reasonable length",
                    got=str(error),
                    remedy="export the table again",
                ) from None


def text_stream(path: Path, keys: tuple[str, ...]) -> TextStream:
    """The text table, after one pass over its bytes."""
    require_file(path)
    try:
        size = path.stat().st_size
        encoding = _encoding(path) if size <= MAX_STREAM_BYTES else ""
    except OSError as error:
        raise refused(
            "unreadable_table",
            b"",
            expected="a table that can be opened",
            got=type(error).__name__,
            remedy="check the name in polyclinic.yaml and the file's permissions",
        ) from None
    if not encoding:
        raise refused(
            "table_too_large",
            b"",
            expected=f"at most {MAX_STREAM_BYTES >> 30} GiB of text",
            got=f"{size} bytes",
            remedy="keep the measurements of the study's panel",
        )
    with path.open(encoding=encoding, newline="") as file:
        head = file.read(BLOCK)
    delimiter = delimiter_of(head, keys)
    if not delimiter:
        raise missing_key(path, keys)
    header = header_of(head, delimiter)
    require_distinct(header, path)
    return TextStream(path, encoding, header, delimiter)


def _encoding(path: Path) -> str:
    """The encoding of a text file by its byte-order mark, else UTF-8, else Latin-1.

    Raises:
        DataRejected: undecodable, or with NUL or other control characters.
    """
    with path.open("rb") as file:
        start = file.read(4)
    marked = next((name for mark, name in MARKS if start.startswith(mark)), "")
    # These names skip the mark, which the others would read as a letter.
    encoding = {"utf-8": "utf-8-sig"}.get(marked, marked[:6]) if marked else "utf-8"
    try:
        _scan(path, encoding)
    except UnicodeDecodeError as error:
        if marked:
            raise refused(
                "unreadable_table",
                path,
                expected=f"the {marked} text that its byte-order mark announces",
                got=error.reason,
                remedy="export the table again as UTF-8",
            ) from None
        encoding = "latin-1"
        _scan(path, encoding)
    return encoding


def _scan(path: Path, encoding: str) -> None:
    """Decode a whole file block by block and look for control characters.

    Raises:
        DataRejected: ``control_characters``.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            found = CONTROL.search(decoder.decode(block))
            if found:
                raise refused(
                    "control_characters",
                    path,
                    expected="a text table",
                    got=f"control character U+{ord(found.group()):04X}",
                    remedy="export the table again as UTF-8 text",
                )
        decoder.decode(b"", final=True)
