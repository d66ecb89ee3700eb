"""Which slides lie in a folder, whose they are, and what the site states of their pixels."""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.data.dicom import DEFLATED
from polyclinic.data.identity import as_id
from polyclinic.data.quiet import quiet
from polyclinic.data.slide_image import MPP_RANGE, SUFFIXES
from polyclinic.data.slide_table import PATIENT_COLUMNS, SLIDE_COLUMNS, slide_name
from polyclinic.data.table import TextTable, parse, read_bytes
from polyclinic.errors import DataError
from polyclinic.importing.folder import walk

MPP_COLUMNS = ("wsi", *SLIDE_COLUMNS)
# VL Whole Slide Microscopy Image Storage.
DICOM_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
AFTER_SERIES = 0x0020000E
HEAD_BYTES = 1 << 20
# Where a file's transfer syntax stands.
PREFACE = 4096


@dataclass(frozen=True)
class SlideFile:
    """One slide of a folder.

    Attributes:
        path: of the file that OpenSlide opens.
        name: without folder and extension, in one spelling.
        repeated: another slide of the folder has this name.
    """

    path: Path = field(repr=False)
    name: str = field(repr=False)
    repeated: bool = False


def find_slides(folder: Path) -> list[SlideFile]:
    """The slides of a folder and the folders in it, sorted by path; links are not followed.

    The files of one DICOM series are one slide, named for their folder when it holds no other.

    Raises:
        DataError: no such folder, or no slide in it.
    """
    if not folder.is_dir():
        raise _unusable("a folder of slides", "no such folder", "correct the folder's name")
    found = [f.path for f in walk(folder) if f.path.suffix.lower() in SUFFIXES]
    plain = [p for p in found if p.suffix.lower() != ".dcm"]
    named = [(p, as_id(p.stem)) for p in plain]
    named += _dicom_slides([p for p in found if p.suffix.lower() == ".dcm"])
    if not named:
        kinds = ", ".join(sorted(SUFFIXES))
        raise _unusable(f"slides ({kinds})", "none in this folder", "name the right folder")
    often = Counter(name for _, name in named)
    return [SlideFile(path, name, often[name] > 1) for path, name in sorted(named)]


def _dicom_slides(files: Sequence[Path]) -> list[tuple[Path, str]]:
    """One file and a name for each series of slide images; other DICOM files are passed over.

    A file that cannot be read stands for itself, so that it is refused and not lost.
    """
    series: dict[tuple[Path, str], Path] = {}
    broken = []
    for path in files:
        try:
            kind, uid, volume = _described(path)
        except Exception:  # pydicom raises at least ten types on damaged files
            broken.append((path, as_id(path.stem)))
            continue
        if not kind:
            broken.append((path, as_id(path.stem)))
        elif kind == DICOM_SLIDE and volume:  # labels and overviews of the glass are not opened
            series.setdefault((path.parent, uid), path)
    per_folder = Counter(parent for parent, _ in series)
    alone = [
        (path, as_id(parent.name if per_folder[parent] == 1 else path.stem))
        for (parent, _), path in series.items()
    ]
    return alone + broken


def _described(path: Path) -> tuple[str, str, bool]:
    """Kind of object and series of a DICOM file, and whether it is the scan itself.

    Only the head is read, up to the series: frame tables of slides take megabytes, and a deflated
    file might be a bomb.
    """
    from pydicom.filereader import read_partial

    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if DEFLATED.encode() in head[:PREFACE]:
        raise ValueError("deflated, as no slide is")
    with quiet():
        header = read_partial(io.BytesIO(head), lambda tag, *_: tag > AFTER_SERIES)
        kind, uid = (str(header.get(k, "")) for k in ("SOPClassUID", "SeriesInstanceUID"))
        return kind, uid, "VOLUME" in (header.get("ImageType") or [])


def stated_mpp(path: Path | None) -> Mapping[str, float]:
    """Micrometres per pixel by slide name, from a table with columns ``wsi`` and ``mpp``.

    Raises:
        DataError: a column is missing, or a cell is no possible resolution.
    """
    if path is None:
        return {}
    table = parse(read_bytes(path), MPP_COLUMNS)
    if "mpp" not in table.header:
        raise table.without(("mpp",))
    stated = {}
    for name, cell in _pairs(table, MPP_COLUMNS, "mpp"):
        try:
            value = float(cell.replace(",", ".") if table.delimiter == ";" else cell)
        except ValueError:
            value = math.nan
        if not MPP_RANGE[0] <= value <= MPP_RANGE[1]:
            low, high = MPP_RANGE
            expected = f"micrometres per pixel from {low} to {high} in column 'mpp'"
            raise _unusable(expected, "another value", "correct the table")
        stated[name] = value
    return stated


def patients_of(path: Path | None) -> Mapping[str, str] | None:
    """Patient by slide name, from a slide table; ``None`` without one.

    Raises:
        DataError: a column is missing, or a slide stands under two patients.
    """
    if path is None:
        return None
    table = parse(read_bytes(path), PATIENT_COLUMNS)
    patient = next(c for c in PATIENT_COLUMNS if c in table.header)
    if not set(SLIDE_COLUMNS) & set(table.header):
        raise table.without(SLIDE_COLUMNS)
    found: dict[str, str] = {}
    for name, cell in _pairs(table, SLIDE_COLUMNS, patient):
        if found.setdefault(name, as_id(cell)) != as_id(cell):
            raise _unusable("every slide under one patient", "one under two", "correct the table")
    return found


def _pairs(table: TextTable, names: Sequence[str], column: str) -> list[tuple[str, str]]:
    """Slide name and cell of a column, row by row; rows of the wrong length are left out."""
    at = next(table.header.index(c) for c in names if c in table.header)
    other = table.header.index(column)
    rows = [cells for _, cells in table.rows() if cells is not None]
    return [(as_id(slide_name(cells[at])), cells[other]) for cells in rows]


def _unusable(expected: str, got: str, remedy: str) -> DataError:
    return DataError(expected=expected, got=got, remedy=remedy)
