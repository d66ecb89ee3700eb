"""A hospital's table made into one of pseudonyms and of the columns that were asked for."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from polyclinic.data.flaw import Flaw
from polyclinic.data.quarantine import Entry
from polyclinic.data.table import MAX_BYTES, TextTable, parse
from polyclinic.errors import DataError, DataRejected
from polyclinic.importing.cells import (
    age_between,
    capped_ages,
    coded,
    kept_column,
    moment,
    says_age,
)
from polyclinic.importing.folder import whole
from polyclinic.importing.people import People
from polyclinic.importing.plan import TableRule

# Name of the column of records in every table that is written.
RECORD = "record"


@dataclass(frozen=True)
class Sheet:
    """A clean table.

    Attributes:
        content: CSV with the delimiter of the original, since decimal commas go with it.
        rows: that were looked at.
        dropped: by new name of a column, why it was not taken over.
        blanked: by new name, cells that did not fit the rest of their column.
    """

    content: bytes = field(repr=False)
    patients: frozenset[str] = field(repr=False)
    rows: int = 0
    entries: tuple[Entry, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    blanked: Mapping[str, int] = field(default_factory=dict)


def read_table(root: Path, name: str, key_column: str, *, what: str) -> TextTable:
    """A CSV table below the folder.

    Args:
        what: names the table in an error, since its own name stays unsaid.

    Raises:
        DataError: it cannot be read, or lacks the column.
    """
    got, remedy = "", "check its name and columns, and export it again as CSV"
    try:
        return parse(whole(root / name, MAX_BYTES), (key_column,))
    except DataRejected as error:
        got, remedy = f"a table refused as '{error.reason}'", error.remedy
    except (OSError, Flaw) as error:
        got = "none, or a link" if isinstance(error, OSError) else "no regular file"
    raise DataError(expected=f"the CSV table of {what}", got=got, remedy=remedy)


def clean_table(
    root: Path, rule: TableRule, people: People, key: str, *, what: str, owner: str
) -> Sheet:
    """The table that a rule describes, cleaned.

    Args:
        key: name of the patient column in the result.
        owner: modality of the quarantine list.

    Raises:
        DataError: the table cannot be read, or lacks a column of the rule.
    """
    table = read_table(root, rule.table, rule.id, what=what)
    at = _places(table, rule, what)
    rows, entries = _rows(table, at[rule.id], people, what, owner)
    names = [people.named(row[at[rule.id]]) for row in rows]
    columns: dict[str, list[str]] = {key: names}
    if rule.record:
        visits = [row[at[rule.record]] for row in rows]
        columns[RECORD] = [people.record(n, v) for n, v in zip(names, visits, strict=True)]
    dropped: dict[str, str] = {}
    blanked: Counter[str] = Counter()
    ids = [row[at[rule.id]] for row in rows]
    for new, old in rule.columns.items():
        cells = [row[at[old]] for row in rows]
        codes = rule.codes.get(new)
        kept, why, lost = coded(cells, codes) if codes else kept_column(cells, ids)
        blanked[new] += lost
        if why:
            dropped[new] = why
        else:
            columns[new] = capped_ages(kept) if says_age(new) or says_age(old) else kept
    for new, made in _derived(rule, rows, at, names).items():
        columns[new] = made
        blanked[new] += made.count("")
    content = _written(columns, table.delimiter)
    told = {n: c for n, c in blanked.items() if c}
    total = len(rows) + len(entries)
    return Sheet(content, frozenset(names), total, tuple(entries), dropped, told)


def _places(table: TextTable, rule: TableRule, what: str) -> dict[str, int]:
    """Index of every column that the rule names.

    Raises:
        DataError: with the number of those that are absent.
    """
    wanted = {rule.id, *rule.columns.values()} | ({rule.record} if rule.record else set())
    if rule.age:
        wanted |= {rule.age.born, rule.age.at}
    if rule.hours:
        wanted |= {rule.hours.at} | ({rule.hours.since} if rule.hours.since else set())
    absent = wanted - set(table.header)
    if absent:
        raise DataError(
            expected=f"every column that the plan names in the table of {what}",
            got=f"{len(absent)} of {len(wanted)} absent",
            remedy="correct the names in the plan; they are compared letter by letter",
        )
    return {c: table.header.index(c) for c in wanted}


def _rows(
    table: TextTable, at: int, people: People, what: str, owner: str
) -> tuple[list[list[str]], list[Entry]]:
    """The rows with a patient, and those left out."""
    rows: list[list[str]] = []
    entries: list[Entry] = []
    try:
        for line, cells in table.rows():
            reference = f"table line {line}"
            if cells is None:
                entries.append(Entry("ragged_row", owner, reference))
            elif not people.named(cells[at]):
                entries.append(Entry("no_patient_id", owner, reference))
            else:
                rows.append(cells)
    except DataRejected as error:
        raise DataError(
            expected=f"a table of {what} that can be read to its end",
            got=f"one refused as '{error.reason}'",
            remedy=error.remedy,
        ) from None
    return rows, entries


def _derived(
    rule: TableRule, rows: Sequence[Sequence[str]], at: Mapping[str, int], names: Sequence[str]
) -> dict[str, list[str]]:
    """Ages and hours, made of dates that are not taken over."""
    out: dict[str, list[str]] = {}
    if rule.age:
        born, seen = at[rule.age.born], at[rule.age.at]
        out[rule.age.column] = [age_between(row[born], row[seen]) for row in rows]
    if rule.hours:
        times = [moment(row[at[rule.hours.at]]) for row in rows]
        if rule.hours.since:
            starts = [moment(row[at[rule.hours.since]]) for row in rows]
        else:
            starts = _firsts(names, times)
        out[rule.hours.column] = [_hours(s, t) for s, t in zip(starts, times, strict=True)]
    return out


def _firsts(names: Sequence[str], times: Sequence[datetime | None]) -> list[datetime | None]:
    """For each row its patient's earliest time."""
    first: dict[str, datetime] = {}
    for name, time in zip(names, times, strict=True):
        if time is not None:
            first[name] = min(time, first.get(name, time))
    return [first.get(name) for name in names]


def _hours(start: datetime | None, time: datetime | None) -> str:
    if start is None or time is None:
        return ""
    return f"{(time - start).total_seconds() / 3600:.4f}".rstrip("0").rstrip(".")


def _written(columns: Mapping[str, Sequence[str]], delimiter: str) -> bytes:
    """The columns as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()
