"""Which DICOM series is whose, in folders as a PACS exports them.

``patient/T1/*.dcm``, ``patient/study/T1/*.dcm`` or all series of a patient in one folder. A series
is the study's sequence by the name of a folder, else by the SeriesDescription or the
SeriesInstanceUID of its headers; the site says which words those are (``sequences``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyclinic.data.cache import ArrayCache
from polyclinic.data.column import Request
from polyclinic.data.dicom import header_text, read_header
from polyclinic.data.files import DICOM_SUFFIXES, files_in, leads_out
from polyclinic.data.identity import as_id
from polyclinic.data.quarantine import Entry
from polyclinic.data.volume_layout import Names, VolumeFiles, names_of, require_folder
from polyclinic.errors import DataRejected

KEYWORDS = ("SeriesDescription", "SeriesInstanceUID")
# Of all series of one patient; a study of the heart over time has some ten thousand.
MAX_FILES = 20_000
NO_SEQUENCE, NOT_READ = -1, -2


def series_files(request: Request) -> VolumeFiles:
    """The slices of each patient by sequence.

    Raises:
        DataError: no such folder, or one word stands for two sequences.
        SiteError: the cache cannot be written.
    """
    folder = request.root / request.source.folder
    require_folder(request, folder)
    names = names_of(request)
    known = set(request.ids)
    of_patient: dict[str, list[Path]] = {}
    entries, outside, unlisted = list[Entry](), set[str](), 0
    for path in files_in(folder, DICOM_SUFFIXES).values():
        pseudonym = as_id(path.relative_to(folder).parts[0])
        if pseudonym not in known:
            if pseudonym not in outside:
                request.stranger(pseudonym)
            outside.add(pseudonym)
        elif leads_out(path, folder):
            entries.append(Entry("unsafe_name", request.name, "a link", patient=pseudonym))
        else:
            of_patient.setdefault(pseudonym, []).append(path)
    words = {"kind": "series of a folder", "words": dict(names.study)}
    cache = ArrayCache(request.cache, words)
    files: dict[str, Mapping[str, tuple[Path, ...]]] = {}
    for pseudonym, paths in of_patient.items():
        if len(paths) > MAX_FILES:
            entry = Entry("too_large", request.name, "a patient's folder", patient=pseudonym)
            entries.append(entry)
            continue
        files[pseudonym], refused, other = _sorted_out(paths, folder, names, cache)
        unlisted += other
        for error in refused:
            reference = error.file_hash or "a file of the folder"
            entries.append(Entry(error.reason, request.name, reference, patient=pseudonym))
    return VolumeFiles(files, tuple(entries), outside=len(outside), unlisted=unlisted)


def _sorted_out(
    paths: Sequence[Path], folder: Path, names: Names, cache: ArrayCache
) -> tuple[dict[str, tuple[Path, ...]], list[DataRejected], int]:
    """The slices of a patient by sequence, files that cannot be read, and files of no sequence."""
    order = sorted(set(names.study.values()))
    told = cache.get(tuple(paths), lambda: _assigned(paths, folder, names, order))
    files: dict[str, list[Path]] = {}
    refused: list[DataRejected] = []
    other = 0
    for path, place in zip(paths, told.tolist(), strict=True):
        if place >= 0:
            files.setdefault(order[place], []).append(path)
        elif place == NO_SEQUENCE:
            other += 1
        else:
            try:
                read_header(path)
            except DataRejected as error:
                refused.append(error)
    return {s: tuple(mine) for s, mine in files.items()}, refused, other


def _assigned(
    paths: Sequence[Path], folder: Path, names: Names, order: Sequence[str]
) -> npt.NDArray[np.int32]:
    """By file the place of its sequence in ``order``, or why it has none; (n,).

    Numbers alone are kept in the cache: a description may hold a name.
    """
    return np.array([_place(p, folder, names, order) for p in paths], dtype=np.int32)


def _place(path: Path, folder: Path, names: Names, order: Sequence[str]) -> int:
    """The place of one file's sequence."""
    for part in reversed(path.relative_to(folder).parts[1:-1]):
        if names.sequence(part):
            return order.index(names.sequence(part))
    try:
        header = read_header(path)
    except DataRejected:
        return NOT_READ
    for keyword in KEYWORDS:
        sequence = names.sequence(header_text(header, keyword))
        if sequence:
            return order.index(sequence)
    return NO_SEQUENCE
