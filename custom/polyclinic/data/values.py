"""Numbers of a table by patient: float32, NaN where there is none, and why there is none."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polyclinic.data.cell import REMARKS, SET_ASIDE, number
from polyclinic.data.field import Doubles, Field, read_column
from polyclinic.data.identity import as_id
from polyclinic.data.parquet import encoded, faults, read_parquet
from polyclinic.data.table import PARQUET, TextTable, parse, read_bytes

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Flaw:
    """One value that was set aside.

    Attributes:
        row: of the table, 0 being the first below the header.
        place: of the field in the panel.
        reason: a code of ``SET_ASIDE``.
    """

    row: int
    place: int
    reason: str


@dataclass(frozen=True)
class ValueTable:
    """A table of numbers.

    Attributes:
        ids: patient id of each row, as text; "" where blank.
        lines: line of each row in the file, 1 being the header; empty for a folder of files.
        values: (n, F) float32 in the order of the fields asked for, NaN where absent.
        missing: features whose column the table lacks.
        ragged: lines that were left out because their length differs from the header's.
        absent: cells without a number by cause: ``blank``, ``text``, ``infinite``.
        remarks: numbers that were made of more than digits, by what of.
        flaws: values that the study calls impossible, or cells it does not know.
        hashes: of the files of rows with flaws, where the rows are files.
    """

    ids: list[str]
    lines: list[int]
    values: Floats
    missing: tuple[str, ...] = ()
    ragged: list[int] = field(default_factory=list)
    absent: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)

    def reference(self, row: int) -> str:
        """Where a row stands, for the quarantine list."""
        return f"line {self.lines[row]}" if self.lines else self.hashes.get(row, "")


class Findings:
    """What the reading of one table comes upon: causes counted, values set aside listed."""

    def __init__(self) -> None:
        self.causes: Counter[str] = Counter()
        self.flaws: list[Flaw] = []

    def note(self, cause: str, row: int, place: int) -> None:
        """One cell that is not just a number."""
        if cause in SET_ASIDE:
            self.flaws.append(Flaw(row, place, cause))
        elif cause:
            self.causes[cause] += 1

    def table(self, ids: list[str], lines: list[int], wide: Doubles, **more: Any) -> ValueTable:
        """The table, with what is infinite as float32 made absent."""
        with np.errstate(over="ignore"):
            values = wide.astype(np.float32)
        infinite = np.isinf(values)
        values[infinite] = np.nan
        self.causes["infinite"] += int(infinite.sum())
        counts = {c: n for c, n in sorted(self.causes.items()) if n}
        absent = {c: n for c, n in counts.items() if c not in REMARKS}
        remarks = {c: n for c, n in counts.items() if c in REMARKS}
        flaws = sorted(self.flaws, key=lambda f: (f.row, f.place))
        return ValueTable(ids, lines, values, absent=absent, remarks=remarks, flaws=flaws, **more)


def read_values(path: Path, key: str, fields: Sequence[Field]) -> ValueTable:
    """The fields of a CSV or parquet table by patient.

    Raises:
        DataRejected: the whole table, see ``polyclinic.data.quarantine.TABLE_REASONS``.
    """
    return (_from_parquet if path.suffix in PARQUET else _from_text)(path, key, fields)


def _from_text(path: Path, key: str, fields: Sequence[Field]) -> ValueTable:
    table = parse(read_bytes(path), (key,))
    at = table.header.index(key)
    rows = _TextRows(table, fields)
    ids: list[str] = []
    lines: list[int] = []
    ragged, kept = [], []
    for line, cells in table.rows():
        if cells is None:
            ragged.append(line)
            continue
        ids.append(as_id(cells[at]))
        kept.append(rows.numbers(len(lines), cells))
        lines.append(line)
    wide = np.stack(kept) if kept else np.empty((0, len(fields)))
    return rows.findings.table(ids, lines, wide, missing=rows.missing, ragged=ragged)


class _TextRows:
    """Reads the rows of one text table; panels of plain numbers take the short way."""

    def __init__(self, table: TextTable, fields: Sequence[Field]) -> None:
        self.decimal_comma = table.delimiter == ";"
        self.findings, self.width = Findings(), len(fields)
        where = {c: i for i, c in enumerate(table.header) if c}
        there = [(i, f) for i, f in enumerate(fields) if f.column in where]
        self.missing = tuple(f.feature for f in fields if f.column not in where)
        plain = [(i, where[f.column]) for i, f in there if f.plain]
        self.plain = np.array([i for i, _ in plain], dtype=np.int64)
        self.cells = [c for _, c in plain]
        self.ruled = [
            (i, where[f.column], f.reader(self.decimal_comma)) for i, f in there if not f.plain
        ]

    def numbers(self, row: int, cells: list[str]) -> Doubles:
        """The numbers of a row in the order of the fields; (F,)."""
        values = np.full(self.width, np.nan)
        values[self.plain] = self._plain([cells[c] for c in self.cells])
        for place, cell, read in self.ruled:
            values[place], cause = read(cells[cell])
            self.findings.note(cause, row, place)
        return values

    def _plain(self, cells: list[str]) -> Doubles:
        try:
            if "_" not in "".join(cells):
                found = np.array([float(c) for c in cells])
                self.findings.causes["blank"] += int(np.isnan(found).sum())
                return found
        except ValueError:
            pass
        pairs = [number(c, self.decimal_comma) for c in cells]
        self.findings.causes.update(cause for _, cause in pairs if cause)
        return np.array([value for value, _ in pairs])


def _from_parquet(path: Path, key: str, fields: Sequence[Field]) -> ValueTable:
    findings = Findings()
    table = read_parquet(path, key, {f.column for f in fields})
    wide = np.full((len(table.ids), len(fields)), np.nan)
    with faults(path):
        for place, asked in enumerate(fields):
            if asked.column in table.columns:
                wide[:, place] = _column(table.columns[asked.column], asked, place, findings)
    missing = tuple(f.feature for f in fields if f.column not in table.columns)
    lines = [i + 2 for i in range(len(table.ids))]
    return findings.table(table.ids, lines, wide, missing=missing)


def _column(stored: Any, asked: Field, place: int, findings: Findings) -> Doubles:
    """One parquet column as float64, NaN where it is null or no number."""
    kind = stored.type
    if pa.types.is_boolean(kind) and asked.rule.reads == "number":
        stored, kind = stored.cast(pa.float64()), pa.float64()
    cells: list[str] | Doubles
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        cells = np.array(stored.to_pandas(), dtype=np.float64)
    else:
        cells = []
        for known, places in encoded(stored):
            texts = ["" if v is None else str(v).strip() for v in known]
            cells += ["" if i is None else texts[i] for i in places]
    values, causes, aside = read_column(cells, asked.reader(decimal_comma=False))
    findings.causes.update({c: n for c, n in causes.items() if c not in SET_ASIDE})
    findings.flaws += [Flaw(row, place, reason) for row, reason in aside]
    return values
