"""Which files belong to which patient: a table beside a folder of files, or the files' names.

With a table (``files`` of the source, else ``files.csv`` in the folder or the root) each row names
a patient and a file, relative to the folder. Without one a file is named for its patient, or lies
in a folder that is.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from polyclinic.data.column import Request
from polyclinic.data.identity import as_id
from polyclinic.data.quarantine import Entry
from polyclinic.data.table import parse, read_bytes
from polyclinic.errors import DataError

DICOM_SUFFIXES = frozenset({"", ".dcm", ".dicom", ".ima"})
FILM_SUFFIXES = DICOM_SUFFIXES | {".png", ".jpg", ".jpeg"}
# Without a suffix, but no film.
NOT_FILES = frozenset({"dicomdir", "license", "readme", "version", "sha256sums", "md5sums"})


@dataclass(frozen=True)
class PatientFile:
    """One file of a patient.

    Attributes:
        sequence: as the table says; of a file in a patient's folder its name without suffix; "".
    """

    path: Path = field(repr=False)
    sequence: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table of files.

    Attributes:
        reference: where it stands, for the quarantine list.
        file: as the row writes it.
    """

    reference: str
    pseudonym: str = field(repr=False)
    file: str = field(repr=False)
    sequence: str = ""


@dataclass(frozen=True)
class FileTable:
    """The files of each patient.

    Attributes:
        files: by patient of the cohort, sorted by name within the folder.
        duplicates: files that are listed more than once, under one patient or two.
        outside: files of patients that are not in the manifest.
        unlisted: files in the folder that no row names.
    """

    files: Mapping[str, tuple[PatientFile, ...]] = field(repr=False)
    entries: tuple[Entry, ...] = ()
    duplicates: int = 0
    outside: int = 0
    unlisted: int = 0


def read_files(request: Request, suffixes: frozenset[str], *, sequences: bool = False) -> FileTable:
    """The files of each patient of the cohort.

    Args:
        suffixes: of the kind's files, in lower case; "" takes names without one, and UIDs.
        sequences: the table must have a column ``sequence``.

    Raises:
        DataRejected: the table as a whole is refused.
        DataError: no such folder.
    """
    folder = request.root / request.source.folder
    if not folder.is_dir():
        raise DataError(
            expected=f"the folder of modality '{request.name}'",
            got="no such folder",
            remedy="correct 'folder' in polyclinic.yaml",
        )
    found = files_in(folder, suffixes)
    path = table_path(request, folder)
    if path is None:
        return _by_name(request, folder, found, suffixes)
    rows, entries = _rows(path, request, sequences)
    return by_rows(request, folder, found, rows, entries)


def files_in(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """The files below a folder by their name within it, in one spelling; hidden ones left out."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and _suffix(name, suffixes) is not None:
                path = Path(place, name)
                found[as_id(path.relative_to(folder).as_posix())] = path
    return found


def _suffix(name: str, suffixes: frozenset[str]) -> str | None:
    """The suffix of a file of the kind; "" of one without; ``None`` of any other file."""
    low = name.lower()
    for suffix in sorted(suffixes - {""}, key=len, reverse=True):
        if low.endswith(suffix) and len(low) > len(suffix):
            return suffix
    # The last part of a UID is a number, which no other suffix is.
    bare = low.rpartition(".")[2].isdecimal() if "." in low else low not in NOT_FILES
    return "" if "" in suffixes and bare else None


def stem(name: str, suffixes: frozenset[str]) -> str:
    """A file's name without the suffix of its kind."""
    return name[: len(name) - len(_suffix(name, suffixes) or "")]


def by_rows(
    request: Request,
    folder: Path,
    found: Mapping[str, Path],
    rows: Sequence[Row],
    entries: Iterable[Entry] = (),
) -> FileTable:
    """The files that rows name, for any layout that can be written as rows.

    Args:
        found: the folder's files, from ``files_in``.
        entries: rows that were left out before.
    """
    known, seen = set(request.ids), set[str]()
    left_out = list(entries)
    files: dict[str, list[tuple[str, PatientFile]]] = {}
    duplicates = outside = 0
    for row in rows:
        if not is_safe(row.file):
            entry = Entry("unsafe_name", request.name, row.reference, patient=row.pseudonym)
            left_out.append(entry)
            continue
        name = as_id(PurePosixPath(row.file).as_posix())
        repeated, foreign = name in seen, row.pseudonym not in known
        seen.add(name)
        duplicates += repeated
        outside += foreign
        if foreign:
            request.stranger(row.pseudonym)
        if repeated or foreign:
            continue
        path = found.get(name, folder / row.file)
        if name not in found and not os.path.exists(path):  # pathlib raises on a long name
            entry = Entry("missing_file", request.name, row.reference, patient=row.pseudonym)
            left_out.append(entry)
            continue
        files.setdefault(row.pseudonym, []).append((name, PatientFile(path, row.sequence)))
    ordered = {p: tuple(f for _, f in sorted(own, key=lambda o: o[0])) for p, own in files.items()}
    return FileTable(ordered, tuple(left_out), duplicates, outside, len(set(found) - seen))


def is_safe(name: str) -> bool:
    """Whether a name, relative to a folder, stays inside it as written."""
    place = PurePosixPath(name)
    inside = bool(place.parts) and not place.is_absolute() and ".." not in place.parts
    return inside and name.isprintable()


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a link takes a file out of its folder, or round in a circle."""
    real = os.path.realpath(path)  # pathlib raises on a circle
    return os.path.islink(real) or not Path(real).is_relative_to(os.path.realpath(folder))


def table_path(request: Request, folder: Path) -> Path | None:
    """The table the source names, or ``files.csv`` in the folder or the root."""
    if request.source.files:
        return request.root / request.source.files
    places = (folder / "files.csv", request.root / "files.csv")
    return next((p for p in places if p.is_file()), None)


def _rows(path: Path, request: Request, sequences: bool) -> tuple[list[Row], list[Entry]]:
    """The usable rows of a table of files, and those left out."""
    table = parse(read_bytes(path), (request.key,))
    needed = ("file", "sequence") if sequences else ("file",)
    for column in needed:
        if column not in table.header:
            raise table.without((column,))
    at = {c: table.header.index(c) for c in (request.key, *needed)}
    rows, entries = [], []
    for line, cells in table.rows():
        reference = f"file table line {line}"
        if cells is None:
            entries.append(Entry("ragged_row", request.name, reference))
            continue
        pseudonym, file = as_id(cells[at[request.key]]), cells[at["file"]]
        if not pseudonym:
            entries.append(Entry("no_patient_id", request.name, reference))
        elif file:  # a patient without a file has a blank cell
            sequence = cells[at["sequence"]] if sequences else ""
            rows.append(Row(reference, pseudonym, file, sequence))
    return rows, entries


def _by_name(
    request: Request, folder: Path, found: Mapping[str, Path], suffixes: frozenset[str]
) -> FileTable:
    """The files of each patient where each is named for its patient, or its folder is."""
    known = set(request.ids)
    files: dict[str, list[PatientFile]] = {}
    outside = 0
    for _, path in sorted(found.items()):
        first, *rest = path.relative_to(folder).parts
        bare = stem(path.name, suffixes)
        pseudonym = as_id(first) if rest else as_id(bare)
        if pseudonym in known:
            files.setdefault(pseudonym, []).append(PatientFile(path, bare if rest else ""))
        else:
            outside += 1
            request.stranger(pseudonym)
    return FileTable({p: tuple(f) for p, f in files.items()}, outside=outside)
