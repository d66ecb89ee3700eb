"""Whose a file is: the id of its patient and record, as the plan says where they stand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from polyclinic.data.dicom import header_text
from polyclinic.data.identity import as_id
from polyclinic.errors import DataError
from polyclinic.importing.plan import Finder, ModalityRule
from polyclinic.importing.sheet import read_table


@dataclass(frozen=True)
class Owners:
    """Ids by file, of the plan's tables; empty where the plan finds them elsewhere."""

    patients: Mapping[str, str] = field(repr=False)
    records: Mapping[str, str] = field(repr=False)


def read_owners(root: Path, name: str, rule: ModalityRule) -> Owners:
    """The tables that say whose the files of a modality are.

    Raises:
        DataError: one cannot be read.
    """
    what = f"the files of '{name}'"
    return Owners(_listed(root, rule.patient, what), _listed(root, rule.record, what))


def id_of(rule: Finder | None, name: str, header: Dataset | None, listed: Mapping[str, str]) -> str:
    """The id of a file's patient or record as the plan finds it; "" when it does not.

    Args:
        name: path of the file within the imported folder.
        listed: ids by path and by name, of the plan's table.
    """
    if rule is None:
        return ""
    if rule.dicom:
        return header_text(header, rule.dicom) if header is not None else ""
    *folders, last = name.split("/")
    if rule.name is not None:
        hit = re.search(rule.name, last)
        return (hit.group(1) or "") if hit else ""
    if rule.folder:
        return folders[rule.folder - 1] if len(folders) >= rule.folder else ""
    # A table may name a path, a file, or a file without its suffix.
    spellings = (name, last, last.removesuffix(".gz").rpartition(".")[0])
    return next((listed[as_id(s)] for s in spellings if as_id(s) in listed), "")


def _listed(root: Path, rule: Finder | None, what: str) -> dict[str, str]:
    """By file the id that the plan's table gives it; a file listed for two ids is nobody's."""
    if rule is None or rule.table is None:
        return {}
    table = read_table(root, rule.table, rule.id, what=what)
    if rule.file not in table.header:
        raise DataError(
            expected=f"the column of file names in the table of {what}",
            got="a header without it",
            remedy="correct 'file' in the plan",
        )
    file, patient = table.header.index(rule.file), table.header.index(rule.id)
    listed: dict[str, str] = {}
    for _, cells in table.rows():
        if cells is not None:
            name = as_id(cells[file].replace("\\", "/").removeprefix("./"))
            again = listed.get(name, cells[patient]) != cells[patient]
            listed[name] = "" if again else cells[patient]
    return listed
