"""Rows of a MONAI (decathlon) datalist, the JSON that lists volumes by split.

    {"training": [{"image": ["a_t1.nii.gz", "a_flair.nii.gz"], "label": ...}], "testing": [...]}
    {"training": [{"image": {"t1": "a_t1.nii.gz", "flair": null}, "patient_id": "a"}]}

A list is in the order of the file's own ``channel_names`` (or ``modality``), else of the study's
panel. Splits are read together: the manifest says who is in which.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from polyclinic.data.column import Request
from polyclinic.data.files import Row
from polyclinic.data.identity import as_id
from polyclinic.data.quarantine import Entry
from polyclinic.errors import DataError
from polyclinic.study import read_json

SPLITS = ("training", "validation", "testing", "test", "inference")
PATIENT_KEYS = ("patient_id", "case_id", "subject", "id")


def read_object(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: no such file, not JSON, too large or no object.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        content = type(error).__name__
    if not isinstance(content, dict):
        raise DataError(
            expected="the JSON file that describes the folder (dataset.json, or a datalist)",
            got=content if isinstance(content, str) else "another JSON type",
            remedy="put it where the layout has it, or correct 'files' in polyclinic.yaml",
        )
    return content


def channels(described: Mapping[str, Any]) -> dict[int, str]:
    """The site's name of each channel, by its number; empty where the file names none."""
    named = described.get("channel_names", described.get("modality", {}))
    if not isinstance(named, dict):
        return {}
    return {int(k): str(v) for k, v in named.items() if str(k).isdecimal() and len(str(k)) < 5}


def datalist_rows(
    path: Path, request: Request, key: str = "image"
) -> tuple[list[Row], list[Entry]]:
    """A row for each file of the list, and the items that cannot be used.

    Args:
        key: of an item, what is read: its images, or the mask that is its ``label``.

    Raises:
        DataError: no datalist.
    """
    content = read_object(path)
    order = channels(content) if key == "image" else {}
    order = order or dict(enumerate(request.modality.features))
    rows: list[Row] = []
    entries: list[Entry] = []
    number = 0
    for item in (i for s in SPLITS if isinstance(content.get(s), list) for i in content[s]):
        number += 1
        reference = f"datalist item {number}"
        images = _images(item, order, key)
        if images is None:
            entries.append(Entry("ragged_row", request.name, reference))
            continue
        whose = _patient(item, images, request)
        # A list names its channels as the study does, or as the site does.
        told = {s: request.source.sequences.get(s, s) for s in request.modality.features}
        rows += [Row(reference, whose, f, told.get(w, w)) for w, f in images.items()]
    return rows, entries


def _images(item: object, order: Mapping[int, str], key: str) -> dict[str, str] | None:
    """Files of an item by the name of their sequence; ``None`` when it cannot be told."""
    image = item.get(key) if isinstance(item, dict) else item if key == "image" else None
    if image is None and key != "image":  # nobody has marked it
        return {}
    if isinstance(image, str):  # one sequence, and in the list of test items the file alone
        image = [image]
    if isinstance(image, list):
        if len(image) != len(order):
            return None
        image = {order[i]: file for i, file in enumerate(image) if i in order}
    if not isinstance(image, dict) or not all(isinstance(f, str | None) for f in image.values()):
        return None
    return {str(word): file for word, file in image.items() if file}


def _patient(item: Any, images: Mapping[str, str], request: Request) -> str:
    """Whose an item is: what it says, else a known patient in the path of one of its files; ""
    for one that is not in the manifest."""
    for key in (request.key, *PATIENT_KEYS) if isinstance(item, dict) else ():
        if isinstance(item.get(key), str | int):
            return as_id(item[key])
    known = set(request.ids)
    for file in images.values():
        *folders, name = PurePosixPath(file).parts or ("",)
        bare = name.removesuffix(".gz").removesuffix(".nii")
        starts = [bare[: m.start()] for m in re.finditer(r"[-_. ]", bare)]
        guesses = [*reversed(folders), bare, *reversed(starts)]
        whose = next((as_id(g) for g in guesses if as_id(g) in known), "")
        if whose:
            return whose
    return ""
