"""Which volume is whose, and which of the study's sequences it is, in the layouts hospitals have.

``""``      a table ``files.csv`` (patient, ``file``, ``sequence``); a MONAI datalist; or names:
            ``patient/flair.nii.gz``, ``patient/patient_flair.nii.gz``, ``patient_flair.nii.gz``
``nnunet``  ``dataset.json`` and ``images{Tr,Ts}/patient_0000.nii.gz``
``bids``    ``sub-01/[ses-1/]anat/sub-01_[ses-1_][...]T1w.nii.gz``
``dicom``   ``patient/.../*.dcm``, see ``polyclinic.data.dicom_layout``
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.data.column import Request
from polyclinic.data.datalist import channels, datalist_rows, read_object
from polyclinic.data.files import (
    FileTable,
    Row,
    by_rows,
    files_in,
    leads_out,
    read_files,
    stem,
    table_path,
)
from polyclinic.data.identity import as_id
from polyclinic.data.nifti import SUFFIXES
from polyclinic.data.quarantine import Entry
from polyclinic.errors import DataError

SEPARATORS = "_-. "
_NNUNET = re.compile(r"(.+)_(\d{4})")
_BIDS = re.compile(r"sub-([^_]+)_(?:(ses-[^_]+)_)?(.+)")


@dataclass(frozen=True)
class VolumeFiles:
    """The files of each patient's sequences.

    Attributes:
        files: by patient of the cohort and the study's name of a sequence: one NIfTI file, or the
            slices of one DICOM series.
        duplicates: further files of a sequence that a patient already has, and files listed twice.
        outside: files of patients that are not in the manifest.
        unlisted: files that belong to no sequence of the study.
    """

    files: Mapping[str, Mapping[str, tuple[Path, ...]]] = field(repr=False)
    entries: tuple[Entry, ...] = ()
    duplicates: int = 0
    outside: int = 0
    unlisted: int = 0


@dataclass(frozen=True)
class Names:
    """The site's words for the study's sequences.

    Attributes:
        study: the study's name by the site's, in lower case.
    """

    study: Mapping[str, str]

    def sequence(self, name: str) -> str:
        """The study's name of a sequence, or "" when it has none of this name."""
        return self.study.get(name.strip().lower(), "")

    def ending(self, name: str) -> tuple[str, str]:
        """The sequence with whose name a file's name ends, and what stands before it."""
        if self.sequence(name):
            return self.sequence(name), ""
        low = name.lower()
        for word in sorted(self.study, key=len, reverse=True):
            before = name[: -len(word)]
            if low.endswith(word) and before[-1:] in SEPARATORS:
                return self.study[word], before[:-1]
        return "", ""


def names_of(request: Request) -> Names:
    """The site's words for the sequences of the study's panel.

    Raises:
        DataError: one word stands for two sequences.
    """
    declared = request.source.sequences
    pairs = [(declared.get(f, f).strip().lower(), f) for f in request.modality.features]
    if len({word for word, _ in pairs}) != len(pairs):
        raise DataError(
            expected=f"one name for each sequence of modality '{request.name}'",
            got="a name that stands for two",
            remedy="correct 'sequences' in polyclinic.yaml",
        )
    return Names(dict(pairs))


def require_folder(request: Request, folder: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        DataError: it is not.
    """
    if not folder.is_dir():
        raise DataError(
            expected=f"the folder of modality '{request.name}'",
            got="no such folder",
            remedy="correct 'folder' in polyclinic.yaml",
        )


def volume_files(request: Request) -> VolumeFiles:
    """The NIfTI files of each patient by sequence.

    Raises:
        DataError: no such folder, or the layout's own description is missing or damaged.
        DataRejected: the table of files is refused as a whole.
    """
    folder = request.root / request.source.folder
    require_folder(request, folder)
    names, layout = names_of(request), request.source.layout
    table = table_path(request, folder)
    if layout == "" and table is not None and table.suffix.lower() != ".json":
        listed = read_files(request, SUFFIXES, sequences=True)
        return by_sequence(request, folder, listed, names)
    found = files_in(folder, SUFFIXES)
    if layout == "" and table is not None:
        rows, entries = datalist_rows(table, request)
    else:
        rows, entries = _named(request, folder, found, names), []
    listed = by_rows(request, folder, found, rows, entries)
    return by_sequence(request, folder, listed, names)


def by_sequence(request: Request, folder: Path, listed: FileTable, names: Names) -> VolumeFiles:
    """One file for each sequence of a patient; links that lead out of the folder are left out."""
    files: dict[str, dict[str, tuple[Path, ...]]] = {}
    entries, duplicates, unlisted = list(listed.entries), listed.duplicates, listed.unlisted
    for pseudonym, given in listed.files.items():
        mine = files.setdefault(pseudonym, {})
        for file in given:
            sequence = names.sequence(file.sequence)
            if not sequence:
                unlisted += 1
            elif leads_out(file.path, folder):
                entry = Entry("unsafe_name", request.name, "a link", patient=pseudonym)
                entries.append(entry)
            elif sequence in mine:
                duplicates += 1
            else:
                mine[sequence] = (file.path,)
    return VolumeFiles(files, tuple(entries), duplicates, listed.outside, unlisted)


def _named(request: Request, folder: Path, found: Mapping[str, Path], names: Names) -> list[Row]:
    """A row for each file whose name says whose it is and which sequence."""
    known, rows, wordless = set(request.ids), list[Row](), list[Row]()
    layout = request.source.layout
    order = channels(read_object(folder / "dataset.json")) if layout == "nnunet" else {}
    for name, path in found.items():
        parts = path.relative_to(folder).parts
        bare = stem(path.name, SUFFIXES)
        sure = True
        if layout == "nnunet":
            whose, word = _nnunet(parts, bare, order)
        elif layout == "bids":
            whose, word = _bids(parts, bare, known, names)
        else:
            whose, word, sure = _plain(parts, bare, known, names)
        if word:
            row = Row("a file of the folder", whose, name, word)
            (rows if sure else wordless).append(row)
    told = {row.pseudonym for row in rows}
    return rows + [row for row in wordless if row.pseudonym not in told]


def _plain(
    parts: tuple[str, ...], bare: str, known: set[str], names: Names
) -> tuple[str, str, bool]:
    """Patient and sequence by folder and name, or by name alone; and whether a word says so.

    A modality of one sequence needs no word for it, where no other file of the patient has it.
    """
    sequence, before = names.ending(bare)
    sure = bool(sequence)
    folders = [as_id(p) for p in parts[:-1]]
    if not sequence and len(names.study) == 1 and (folders or as_id(bare) in known):
        sequence, before = next(iter(names.study.values())), bare
    word = next((w for w, s in names.study.items() if s == sequence), "")
    whose = next((f for f in folders if f in known), folders[0] if folders else as_id(before))
    return whose, word, sure


def _nnunet(parts: tuple[str, ...], bare: str, order: Mapping[int, str]) -> tuple[str, str]:
    """Patient and sequence of ``imagesTr/patient_0000.nii.gz``; labels are no images."""
    match = _NNUNET.fullmatch(bare)
    if match is None or len(parts) != 2 or not parts[0].startswith("images"):
        return "", ""
    return as_id(match[1]), order.get(int(match[2]), "")


def _bids(parts: tuple[str, ...], bare: str, known: set[str], names: Names) -> tuple[str, str]:
    """Patient and sequence of ``sub-01_ses-1_ce-gad_T1w``; a word may begin with the session."""
    match = _BIDS.fullmatch(bare)
    if match is None or parts[0] != f"sub-{match[1]}":
        return "", ""
    session, rest = match[2] or "", match[3]
    words = (f"{session}_{rest}", rest) if session else (rest,)
    word = next((w for w in words if names.sequence(w)), "")
    whose = next((i for i in (f"sub-{match[1]}", match[1]) if i in known), match[1])
    return as_id(whose), word
