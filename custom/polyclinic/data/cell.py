"""The number in one cell of a table: plain, at a limit of detection, an interval, an age, a class.

Laboratories write more than numbers. ``<0.5`` was measured and is below what the machine can tell:
it counts as its limit, 0.5, since no better number is known; ``[3,5]`` counts as its middle. Both
are counted, so that a person sees how many there are. An infinite limit (``-inf``) names no number
and is absent, and so is everything that would have to be guessed.
"""

import math
import re

from polyclinic.data.identity import as_id
from polyclinic.data.units import Conversion
from polyclinic.study import FieldRule

BLANK = frozenset({"", "na", "n/a", "nan", "null", "none", ".", "-", "<na>"})
# Why a value is set aside: reason codes of ``polyclinic.data.quarantine.REASONS``.
IMPOSSIBLE, UNKNOWN, UNKNOWN_UNIT = "impossible_value", "unknown_category", "unknown_unit"
SET_ASIDE = frozenset({IMPOSSIBLE, UNKNOWN, UNKNOWN_UNIT})
# What a value that is there was made of.
LIMIT, INTERVAL = "limit", "interval"
REMARKS = {
    LIMIT: "at a limit of detection, taken as the limit",
    INTERVAL: "an interval, taken as its middle",
}
NAN = float("nan")
PLAIN = FieldRule()

# HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C): ages over 89 become one group, 90 or older.
OLDEST_TOLD, GROUP_90 = 89.0, 90.0
OLDEST = 125.0
_DAYS_OF_YEAR = 365.25
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / _DAYS_OF_YEAR, "D": 1 / _DAYS_OF_YEAR}
_DICOM_AGE = re.compile(r"(\d{1,3}) ?([YMWD])", re.IGNORECASE)
_OPEN_AGE = re.compile(r"(?:>=?|≥) ?(\d{1,3})|(\d{1,3}) ?\+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_LIMIT = re.compile(r"(?:[<>]=?|[≤≥])\s*(.+)")
_INTERVAL = re.compile(r"[\[(](.+)[\])]")


def number(cell: str, decimal_comma: bool) -> tuple[float, str]:
    """The number in a cell and what it was made of, or NaN and the cause of its absence.

    The second is "" for a plain number, ``limit`` or ``interval``; of NaN ``blank`` or ``text``.
    """
    if cell.lower() in BLANK:
        return NAN, "blank"
    value = _plain(cell, decimal_comma)
    if value is not None:
        return value, "blank" if math.isnan(value) else ""
    limit = _LIMIT.fullmatch(cell)
    if limit:
        return _finite(_plain(limit[1], decimal_comma), LIMIT)
    interval = _INTERVAL.fullmatch(cell)
    return _middle(interval[1], decimal_comma) if interval else (NAN, "text")


def _plain(cell: str, decimal_comma: bool) -> float | None:
    """What Python reads as a number; ``None`` for anything else."""
    if decimal_comma and _DECIMAL_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    try:
        # Python reads "1_000" as a number, no table means it.
        return float("text" if "_" in cell else cell)
    except ValueError:
        return None


def _finite(value: float | None, remark: str) -> tuple[float, str]:
    if value is None or math.isnan(value):
        return NAN, "text"
    return (value, remark) if math.isfinite(value) else (NAN, "infinite")


def _middle(inside: str, decimal_comma: bool) -> tuple[float, str]:
    """The middle of two bounds; the finite one of two, since ``[-inf, 3]`` means below 3."""
    parts = inside.split(";" if ";" in inside else ",")
    ends = [_plain(p.strip(), decimal_comma) for p in parts]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not ends[0] <= ends[1]:
        return NAN, "text"
    low, high = ends[0], ends[1]
    if math.isinf(low) or math.isinf(high):
        return _finite(high if math.isinf(low) else low, LIMIT)
    return low + (high - low) / 2, INTERVAL


def age(cell: str, decimal_comma: bool) -> tuple[float, str]:
    """Years from ``45``, ``045Y``, ``018M``, ``003W``, ``010D``, ``90+`` or ``>89``.

    Over 89 it is 90, the group "90 or older". Below 0 and above ``OLDEST`` nobody is that old.
    """
    coded, open_ended = _DICOM_AGE.fullmatch(cell), _OPEN_AGE.fullmatch(cell)
    if coded:
        years = int(coded[1]) * _YEARS[coded[2].upper()]
    elif open_ended:
        oldest = int(open_ended[1] or open_ended[2]) >= OLDEST_TOLD
        return (GROUP_90, "") if oldest else (NAN, "text")
    else:
        years, remark = number(cell, decimal_comma)
        if remark:  # absent, or a bound that says little about a person's age
            return NAN, "blank" if remark == "blank" else "text"
    if not math.isfinite(years):
        return NAN, "infinite"
    if not 0 <= years <= OLDEST:
        return NAN, IMPOSSIBLE
    return (GROUP_90 if years > OLDEST_TOLD else years), ""


def category(cell: str, rule: FieldRule) -> tuple[float, str]:
    """1 for the rule's category, 0 for another of ``among``; whole numbers without their point."""
    known = {as_id(c) for c in rule.among}
    text = as_id(cell)
    if text not in known and text.endswith(".0"):
        text = text.removesuffix(".0")
    if text in known:
        return float(text == as_id(rule.category)), ""
    return NAN, "blank" if text.lower() in BLANK else UNKNOWN


def read_cell(
    cell: str, rule: FieldRule, conversion: Conversion, decimal_comma: bool = False
) -> tuple[float, str]:
    """The number a rule makes of a cell, in the study's unit; NaN and a cause where absent.

    Guarantees:
      - The number is finite and within ``low`` and ``high``.
      - NaN comes with one of ``blank``, ``text``, ``infinite`` or ``SET_ASIDE``.
    """
    if rule.reads == "category":
        return category(cell, rule)
    value, remark = (age if rule.reads == "age" else number)(cell, decimal_comma)
    if math.isnan(value):
        return NAN, remark or "blank"
    value = conversion.convert(value)
    if math.isinf(value):
        return NAN, "infinite"
    return (value, remark) if is_possible(value, rule) else (NAN, IMPOSSIBLE)


def is_possible(value: float, rule: FieldRule) -> bool:
    """Whether a number in the study's unit lies within what the rule calls possible."""
    low, high = rule.low, rule.high
    return (low is None or value >= low) and (high is None or value <= high)
