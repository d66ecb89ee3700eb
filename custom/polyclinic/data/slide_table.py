"""Which slides belong to which patient: the slide table beside a folder of features."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polyclinic.data.column import Request
from polyclinic.data.identity import as_id
from polyclinic.data.quarantine import Entry
from polyclinic.data.table import parse, read_bytes

PATIENT_COLUMNS = ("patient_id", "case_id", "PATIENT")
SLIDE_COLUMNS = ("slide_id", "FILENAME", "filename")
SUFFIXES = frozenset({".h5", ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".tif", ".tiff", ".dcm"})


@dataclass(frozen=True)
class SlideTable:
    """The files of each patient.

    Attributes:
        files: sorted by name, by patient of the cohort.
        duplicates: slides that are listed more than once, under one patient or two.
        outside: slides of patients that are not in the manifest.
        unlisted: files in the folder that no row names.
    """

    files: Mapping[str, tuple[Path, ...]]
    entries: tuple[Entry, ...] = ()
    duplicates: int = 0
    outside: int = 0
    unlisted: int = 0


def slide_name(cell: str) -> str:
    """The name of a slide without the extension of an image or feature file."""
    place = Path(cell)
    return place.stem if place.suffix.lower() in SUFFIXES else cell


def read_slide_table(request: Request, folder: Path) -> SlideTable:
    """The files of each patient, by ``slides`` of the source, else ``slides.csv`` beside them.

    Without a table a file is named for its patient.

    Raises:
        DataRejected: the table as a whole is refused.
    """
    found = sorted(folder.glob("*.h5"))
    present = {as_id(p.stem): p for p in found}
    path = _table_path(request, folder)
    if path is None:
        named = {i: (present[i],) for i in request.ids if i in present}
        same = len(found) - len(present)
        for name in sorted(set(present) - set(named)):
            request.stranger(name)
        return SlideTable(named, duplicates=same, outside=len(present) - len(named))
    pairs, entries = _pairs(path, request)
    known, listed = set(request.ids), set[str]()
    files: dict[str, tuple[Path, ...]] = {}
    duplicates = outside = 0
    for pseudonym, slide in sorted(pairs):
        duplicates += slide in listed
        if pseudonym not in known:
            outside += 1
            request.stranger(pseudonym)
        if slide not in listed and pseudonym in known:
            place = present.get(slide, folder / f"{slide}.h5")
            files[pseudonym] = (*files.get(pseudonym, ()), place)
        listed.add(slide)
    return SlideTable(files, entries, duplicates, outside, len(set(present) - listed))


def _table_path(request: Request, folder: Path) -> Path | None:
    """The table the source names, or ``slides.csv`` in the folder, one above it, or the root."""
    if request.source.slides:
        return request.root / request.source.slides
    base = request.root / request.source.folder
    above = [folder.parent] if folder != base and folder.parent.is_relative_to(base) else []
    places = [place / "slides.csv" for place in (folder, *above, base, request.root)]
    return next((p for p in places if p.is_file()), None)


def _pairs(path: Path, request: Request) -> tuple[list[tuple[str, str]], tuple[Entry, ...]]:
    """Patient and slide of each usable row."""
    table = parse(read_bytes(path), (request.key, *PATIENT_COLUMNS))
    at = next(table.header.index(c) for c in (request.key, *PATIENT_COLUMNS) if c in table.header)
    named = next((table.header.index(c) for c in SLIDE_COLUMNS if c in table.header), -1)
    if named < 0:
        raise table.without(SLIDE_COLUMNS)
    pairs, entries = [], []
    for line, cells in table.rows():
        reference = f"slide table line {line}"
        if cells is None:
            entries.append(Entry("ragged_row", request.name, reference))
        elif not as_id(cells[at]):
            entries.append(Entry("no_patient_id", request.name, reference))
        elif not cells[named] or Path(cells[named]).name != cells[named]:
            # A name with a separator or '..' could read a file outside the folder.
            entries.append(Entry("unsafe_name", request.name, reference, patient=as_id(cells[at])))
        else:
            pairs.append((as_id(cells[at]), as_id(slide_name(cells[named]))))
    return pairs, tuple(entries)
