"""What may leave a table's cell: numbers, short codes, an age or hours; no date or free text."""

import re
from collections.abc import Sequence
from datetime import datetime

OLDEST = 90
# Of anybody; a column with more is not in years.
OLDEST_EVER = 125
MAX_CODES = 50
MAX_CODE_LENGTH = 32
# A cell of more is a remark, however often it repeats.
MAX_WORDS = 2
# A column counts as numbers when at least this share of its cells are.
NUMERIC_SHARE = 0.8
_PARTED = re.compile("[|;,]")
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "."})
_NUMBER = re.compile(r"[<>]?=?\s?[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d{1,3})?")
_AGE = re.compile(r"(\d{1,3})\s?([DWMY])|90\+", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}.*|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*|\d{4}/\d{1,2}/.*")
_COMPACT = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
# Forms in which day and month cannot be taken for each other.
_FORMS = ("%Y%m%d", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%Y/%m/%d", "%Y/%m/%d %H:%M")
# A spreadsheet would compute what begins so.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def kept_column(cells: Sequence[str], ids: Sequence[str]) -> tuple[list[str], str, int]:
    """A column as it may be taken over.

    Args:
        cells: of the column, stripped.
        ids: of the rows' patients, as the table writes them.

    Returns:
        The cells, why the column is dropped instead ("" when it is not), and how many cells were
        blanked since they did not fit the rest.
    """
    said = [c for c in cells if c.lower() not in _MISSING]
    if not said:
        return [""] * len(cells), "", 0
    if sum(c == i for c, i in zip(cells, ids, strict=True) if c) > len(said) / 2:
        return [], "patient ids", 0
    dates = sum(bool(_DATE.fullmatch(c) or _COMPACT.fullmatch(c)) for c in said)
    if dates > len(said) / 2:
        return [], "dates", 0
    if _are_numbers_of_cases(said):
        return [], "numbers of cases", 0
    if sum(map(is_number, said)) >= NUMERIC_SHARE * len(said):
        return _fitting(cells, [is_number(c) for c in cells])
    codes = set(said)
    # Codes repeat; names, remarks and numbers of cases do not.
    few = len(codes) <= min(MAX_CODES, max(2, len(said) // 2))
    remarks = sum(map(_is_remark, said))
    if not few or any(len(c) > MAX_CODE_LENGTH for c in codes) or 2 * remarks > len(said):
        return [], "free text", 0
    known = set(ids)
    unfit = (_is_remark, _DATE.fullmatch, lambda c: c in known, lambda c: c[:1] in _FORMULA)
    return _fitting(cells, [not any(test(c) for test in unfit) for c in cells])


def _is_remark(cell: str) -> bool:
    """Whether a cell is a sentence rather than a code: more than two words."""
    return len(cell.split()) > MAX_WORDS


def _are_numbers_of_cases(said: Sequence[str]) -> bool:
    """Whether most cells count cases or telephones and measure nothing: five or more digits that
    begin with 0, or seven and more, always as many, that hardly repeat."""
    digits = [c for c in said if c.isdecimal() and len(c) >= 5]
    if 2 * sum(c[0] == "0" for c in digits) > len(said):
        return True
    long = [c for c in digits if len(c) >= 7]
    alike = len(long) == len(said) >= 5 and len({len(c) for c in long}) == 1
    return alike and 2 * len(set(long)) > len(said)


def coded(cells: Sequence[str], codes: Sequence[str]) -> tuple[list[str], str, int]:
    """A column of listed codes and their combinations, as ``kept_column`` returns it."""
    known = {c.strip() for c in codes}
    return _fitting(cells, [{p.strip() for p in _PARTED.split(c)} <= known for c in cells])


def _fitting(cells: Sequence[str], fits: Sequence[bool]) -> tuple[list[str], str, int]:
    """The cells that fit, the others blank; how many of those said something."""
    kept = [c if f and c.lower() not in _MISSING else "" for c, f in zip(cells, fits, strict=True)]
    blanked = sum(not f and c.lower() not in _MISSING for c, f in zip(cells, fits, strict=True))
    return kept, "", blanked


def is_number(cell: str) -> bool:
    """Whether a cell is a number, a limit such as ``<5``, or an age such as ``045Y``."""
    plain = _NUMBER.fullmatch(cell) and not cell.startswith("=")
    return bool(plain or _AGE.fullmatch(cell)) and len(cell) <= MAX_CODE_LENGTH


def says_age(column: str) -> bool:
    """Whether a column is named for ages: ``age``, ``AGE_YEARS``, ``Alter bei Aufnahme``."""
    return any(w in ("age", "alter") for w in re.split(r"[^a-z]+", column.lower()))


def capped_ages(cells: Sequence[str]) -> list[str]:
    """Ages in years, above 89 as ``90+``; as they are where a number says that they are no years
    (days of a pregnancy, bone age in months)."""
    plain = [float(c) for c in cells if c.isdecimal()]
    return list(cells) if max(plain, default=0.0) > OLDEST_EVER else list(map(capped_age, cells))


def capped_age(cell: str) -> str:
    """An age in years, above 89 as ``90+``; other cells as they are."""
    years = re.fullmatch(r"[<>≥]?=?\s?(\d{1,3})(?:[.,]\d*)?\s?[yY]?", cell)
    return f"{OLDEST}+" if years and int(years.group(1)) >= OLDEST else cell


def age_between(born: str, at: str) -> str:
    """Whole years from one date to the other; "" where either cannot be read or they cannot be."""
    start, end = moment(born), moment(at)
    if start is None or end is None:
        return ""
    years = end.year - start.year - ((end.month, end.day) < (start.month, start.day))
    if not 0 <= years <= 130:
        return ""
    return f"{OLDEST}+" if years >= OLDEST else str(years)


def moment(cell: str) -> datetime | None:
    """A date or time, read only where day and month cannot be taken for each other."""
    text = cell.strip()
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        pass
    for form in _FORMS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return None
