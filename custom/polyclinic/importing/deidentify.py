"""A DICOM dataset without identities: a new dataset into which only what is allowed is put.

Guarantees:
    * Whatever ``polyclinic.importing.actions`` does not name is not in the result: private
      attributes, overlays, curves, nested sequences, unknown and damaged elements.
    * What it names is there only with a value of the expected form and value representation.
    * The same UID becomes the same other UID under the same key, so a series stays a series.
    * No date; an age in years only, above 89 as 90.
    * The dataset that was given is not changed.

Pixels are carried over by ``polyclinic.importing.dicom_file``, which knows how they are coded.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from polyclinic.errors import DataRejected
from polyclinic.importing.actions import ACTIONS, CODES, ITEM_ACTIONS, Action
from polyclinic.importing.pseudonym import uid

METHOD = "polyclinic: PS3.15 Basic subset by allow-list; age and sex kept"
OLDEST = 90
MAX_ITEMS = 16
MAX_VALUES = 1 << 16
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DATE = re.compile(r"\d{8}")
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
# Secondary capture: a screen, a scan or another program's drawing, whose pixels often hold text.
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_DRAWN = frozenset({"WSD", "DV", "SD", "SI", "DF", "DRW", "SYN"})
_LABELLED = frozenset({"US", "SC", "OT", "XC", "ES"})


def deidentify(dataset: Dataset, key: bytes, patient: str) -> Dataset:
    """The attributes that are allowed, without pixels.

    Args:
        key: of the site, for UIDs.
        patient: the pseudonym that stands in for name and id.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes the values it dislikes
        clean = _filtered(dataset, ACTIONS, key)
        age = _age(dataset)
    if age:
        clean.PatientAge = age
    clean.PatientID = clean.PatientName = patient
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = METHOD
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    return clean


def text_is_likely(dataset: Dataset) -> bool:
    """Whether the header says or suggests that text is burned into the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flags = {_word(dataset, k) for k in ("BurnedInAnnotation", "RecognizableVisualFeatures")}
        if "YES" in flags:
            return True
        kinds = set(_words(dataset, "ImageType"))
        drawn = _word(dataset, "ConversionType") in _DRAWN or kinds & {"SCREEN SAVE", "SCREEN"}
        captured = _word(dataset, "SOPClassUID").startswith(_CAPTURE)
        labelled = _word(dataset, "Modality") in _LABELLED
        said_no = _word(dataset, "BurnedInAnnotation") == "NO"
    return bool(drawn or captured or labelled) and not said_no


def _filtered(dataset: Dataset, actions: Mapping[str, Action], key: bytes) -> Dataset:
    """A new dataset of what the actions let through."""
    clean = Dataset()
    for keyword, action in actions.items():
        tag = Tag(tag_for_keyword(keyword) or 0)
        element = _element(dataset, tag)
        if element is None:
            continue
        if action == "empty":
            clean.add(DataElement(tag, element.VR, ""))
        elif action == "uid":
            clean.add(DataElement(tag, "UI", uid(key, str(element.value or ""))))
        elif action == "items":
            clean.add(DataElement(tag, "SQ", _items(element.value, key)))
        elif (action == "code" and _is_code(keyword, element)) or (
            action == "keep" and _is_number(element)
        ):
            clean.add(DataElement(tag, element.VR, element.value))
    _drop_long_tables(clean)
    sop_class = UID(_word(dataset, "SOPClassUID"))
    if actions is ACTIONS and sop_class.type == "SOP Class":
        clean.SOPClassUID = sop_class
    return clean


def _drop_long_tables(clean: Dataset) -> None:
    """Remove lookup tables that hold more or fewer bytes than their descriptor says."""
    for data in [e for e in clean if str(e.keyword).endswith("Data")]:
        described = clean.get(str(data.keyword).removesuffix("Data") + "Descriptor")
        entries = (int(described[0]) & 0xFFFF or 1 << 16) if described else 0
        held = [data.value] if isinstance(data.value, int) else data.value
        # Entries take a word each, or in old files a byte.
        sizes = (2 * entries, entries + entries % 2) if isinstance(held, bytes) else (entries,)
        if len(held) not in sizes:
            del clean[data.tag]


def _element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """An element whose value can be read and whose type is the dictionary's; else None."""
    try:
        if tag not in dataset:
            return None
        element: DataElement = dataset[tag]
        return element if element.VR in dictionary_VR(tag).split(" or ") else None
    except Exception:  # whatever a damaged value raises: it is not taken over
        return None


def _items(value: Any, key: bytes) -> Sequence:
    """The items of a sequence, each filtered; more than ``MAX_ITEMS`` are not looked at."""
    items = list(value or [])[:MAX_ITEMS]
    return Sequence([_filtered(item, ITEM_ACTIONS, key) for item in items])


def _is_number(element: DataElement) -> bool:
    """Whether a value is nothing but numbers, and no longer than a lookup table."""
    value = element.value
    if isinstance(value, bytes):
        return element.VR in ("OW", "OB") and 0 < len(value) <= 2 * MAX_VALUES
    values = [value] if isinstance(value, str | int | float) or value is None else list(value)
    if not values or len(values) > MAX_VALUES:
        return False
    if element.VR in ("DS", "IS"):
        return all(_NUMBER.fullmatch(str(v).strip()) for v in values)
    return all(isinstance(v, int | float) for v in values)


def _is_code(keyword: str, element: DataElement) -> bool:
    """Whether every value is a code of the closed list; a blank one is."""
    values = _texts(element.value)
    return bool(values) and all(v in CODES[keyword] or not v for v in values)


def _texts(value: Any) -> list[str]:
    """The values of an element as text, stripped."""
    if value is None:
        return []
    values = [value] if isinstance(value, str | bytes | int | float) else list(value)
    return [str(v).strip() for v in values]


def _words(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an attribute in capitals; none where it is absent or damaged."""
    element = _element(dataset, Tag(tag_for_keyword(keyword) or 0))
    return [] if element is None else [v.upper() for v in _texts(element.value)]


def _word(dataset: Dataset, keyword: str) -> str:
    """The first value of an attribute in capitals, or ""."""
    return next(iter(_words(dataset, keyword)), "")


def _age(dataset: Dataset) -> str:
    """The age at the time of the image as DICOM writes it, above 89 as ``090Y``; "" unknown."""
    age = _AGE.fullmatch(_word(dataset, "PatientAge"))
    if age:
        years = float(age.group(1)) / _PER_YEAR[age.group(2)]
        # Months tell newborns apart and are part of the age; days and weeks become months.
        whole = int(years)
        return f"{min(whole, OLDEST):03d}Y" if whole >= 2 else f"{int(years * 12):03d}M"
    born, seen = _word(dataset, "PatientBirthDate"), _word(dataset, "StudyDate")
    if _DATE.fullmatch(born) and _DATE.fullmatch(seen):
        whole = (int(seen) - int(born)) // 10_000
        if 0 <= whole <= 130:
            return f"{min(whole, OLDEST):03d}Y"
    return ""


def unreadable(got: str, reason: str = "unreadable", digest: str = "") -> DataRejected:
    """The error for a file that is not taken over; ``got`` names no value of the file."""
    return DataRejected(
        reason,
        file_hash=digest,
        expected="a file that can be read and de-identified",
        got=got,
        remedy="export the file again, or leave it out",
    )
