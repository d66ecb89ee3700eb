"""Patient ids as text that compares equal when a person would read it as equal."""

import math
import re
import unicodedata

# Characters that print nothing and are no format characters to Unicode: grapheme joiner, Hangul
# fillers, Khmer inherent vowels, Mongolian and other variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# One repetition for all digits: two side by side take time by the square of a cell's length.
_WHOLE = re.compile(r"\+?([0-9]+)(?:\.0*)?")
# No id is longer. Unicode sorts the accents of a letter in time by the square of their number:
# 200 000 of them took a minute, and a cell may have 16 million.
LONGEST = 4096
# Control and format (zero-width, direction, soft hyphen) characters.
_UNSEEN = frozenset({"Cc", "Cf"})


def as_id(value: object) -> str:
    """An id as text in one spelling: blank for null, whole floats without their point.

    Composed and decomposed letters, wide and narrow forms become the same (Unicode NFKC);
    characters that print nothing are dropped and white space is one blank. A byte of a file's name
    that is no text is written out: dropped, it would make two people's names one. What is longer
    than any id stays as it is.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip().encode("utf-8", "backslashreplace").decode()
    if len(text) > LONGEST or (text.isascii() and text.isprintable() and "  " not in text):
        return text
    spaced = " ".join(_INVISIBLE.sub("", text).split())
    shown = "".join(c for c in spaced if unicodedata.category(c) not in _UNSEEN)
    # Twice: what was dropped may have stood between a letter and its accent, or at an edge.
    return " ".join(unicodedata.normalize("NFKC", shown).split())


def twin_key(pseudonym: str) -> str:
    """What two ids share that differ only in case, or as numbers only in how they are written."""
    whole = _WHOLE.fullmatch(pseudonym)
    if whole:
        return whole.group(1).lstrip("0") or "0"
    folded = pseudonym.casefold()
    return folded if len(folded) > LONGEST else unicodedata.normalize("NFKC", folded)
