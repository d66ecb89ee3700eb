"""Numbers of a table by patient: float32, NaN where there is none, and why there is none."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polyclinic.data.identity import as_id
from polyclinic.data.parquet import encoded, faults, read_parquet
from polyclinic.data.table import PARQUET, parse, read_bytes

Floats = npt.NDArray[np.float32]
BLANK = frozenset({"", "na", "n/a", "nan", "null", "none", ".", "-", "<na>"})
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class ValueTable:
    """A table of numbers.

    Attributes:
        ids: patient id of each row, as text; "" where blank.
        lines: line of each row in the file, 1 being the header.
        values: (n, F) float32 in the order of the columns asked for, NaN where absent.
        missing_columns: columns asked for that the table lacks.
        ragged: lines that were left out because their length differs from the header's.
        absent: cells without a number by cause: ``blank``, ``text``, ``infinite``.
    """

    ids: list[str]
    lines: list[int]
    values: Floats
    missing_columns: tuple[str, ...] = ()
    ragged: list[int] = field(default_factory=list)
    absent: dict[str, int] = field(default_factory=dict)


def number(cell: str, decimal_comma: bool) -> tuple[float, str]:
    """The number in a cell and "", or NaN and the cause of its absence."""
    if cell.lower() in BLANK:
        return float("nan"), "blank"
    if decimal_comma and _DECIMAL_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    try:
        # Python reads "1_000" as a number, no table means it.
        value = float("text" if "_" in cell else cell)
    except ValueError:
        return float("nan"), "text"
    return value, ""


def _numbers(cells: list[str], decimal_comma: bool, causes: Counter[str]) -> list[float]:
    """The numbers of a row; whole rows of plain numbers take the short way."""
    try:
        if "_" not in "".join(cells):
            return [float(c) for c in cells]
    except ValueError:
        pass
    pairs = [number(c, decimal_comma) for c in cells]
    causes.update(cause for _, cause in pairs if cause)
    return [value for value, _ in pairs]


def to_float32(values: npt.NDArray[np.float64], causes: Counter[str]) -> Floats:
    """The values as float32 with what is infinite there made absent, and counted."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    infinite = np.isinf(narrow)
    causes["infinite"] += int(infinite.sum())
    narrow[infinite] = np.nan
    return narrow


def read_values(path: Path, key: str, columns: Sequence[str]) -> ValueTable:
    """The columns of a CSV or parquet table by patient.

    Raises:
        DataRejected: the whole table, see ``polyclinic.data.quarantine.TABLE_REASONS``.
    """
    return (_from_parquet if path.suffix in PARQUET else _from_text)(path, key, columns)


def _arranged(
    found: Floats, present: Sequence[str], columns: Sequence[str]
) -> tuple[Floats, tuple[str, ...]]:
    """Columns in the order asked for, NaN where the table has none, and their names."""
    place = {c: i for i, c in enumerate(present)}
    values = np.full((found.shape[0], len(columns)), np.nan, dtype=np.float32)
    for i, column in enumerate(columns):
        if column in place:
            values[:, i] = found[:, place[column]]
    return values, tuple(c for c in columns if c not in place)


def _from_text(path: Path, key: str, columns: Sequence[str]) -> ValueTable:
    table = parse(read_bytes(path), (key,))
    wanted = set(columns)
    places = [i for i, c in enumerate(table.header) if c in wanted]
    at = table.header.index(key)
    causes: Counter[str] = Counter()
    ids, lines, ragged, kept = [], [], [], []
    for line, cells in table.rows():
        if cells is None:
            ragged.append(line)
            continue
        ids.append(as_id(cells[at]))
        lines.append(line)
        row = _numbers([cells[i] for i in places], table.delimiter == ";", causes)
        kept.append(np.array(row, dtype=np.float64))
    wide = np.stack(kept) if kept else np.empty((0, len(places)))
    causes["blank"] += int(np.isnan(wide).sum()) - causes["blank"] - causes["text"]
    found = to_float32(wide, causes)
    values, missing = _arranged(found, [table.header[i] for i in places], columns)
    return ValueTable(ids, lines, values, missing, ragged, _nonzero(causes))


def _nonzero(causes: Counter[str]) -> dict[str, int]:
    return {c: n for c, n in sorted(causes.items()) if n}


def _from_parquet(path: Path, key: str, columns: Sequence[str]) -> ValueTable:
    causes: Counter[str] = Counter()
    table = read_parquet(path, key, set(columns))
    wide = np.empty((len(table.ids), len(table.columns)))
    with faults(path):
        for i, stored in enumerate(table.columns.values()):
            wide[:, i] = _column(stored, causes)
    causes["blank"] += int(np.isnan(wide).sum()) - causes["text"]
    values, missing = _arranged(to_float32(wide, causes), list(table.columns), columns)
    lines = [i + 2 for i in range(len(table.ids))]
    return ValueTable(table.ids, lines, values, missing, [], _nonzero(causes))


def _column(stored: Any, causes: Counter[str]) -> npt.NDArray[np.float64]:
    """One parquet column as float64, NaN where it is null or no number."""
    if pa.types.is_integer(stored.type) or pa.types.is_floating(stored.type):
        return np.asarray(stored.to_pandas(), dtype=np.float64)
    if pa.types.is_boolean(stored.type):
        return np.asarray(stored.cast(pa.float64()).to_pandas(), dtype=np.float64)
    values: list[float] = []
    for known, places in encoded(stored):
        cells = ["" if v is None else str(v).strip() for v in known]
        pairs = [number(c, decimal_comma=False) for c in cells]
        causes.update("text" for i in places if i is not None and pairs[i][1] == "text")
        values += [float("nan") if i is None else pairs[i][0] for i in places]
    return np.array(values, dtype=np.float64)
