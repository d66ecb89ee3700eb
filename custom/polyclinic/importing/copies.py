"""The files of one modality, each de-identified and copied, or refused at its own cost."""

import errno
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID

from polyclinic.data.dicom import MAX_FILE_BYTES, header_text, read_header
from polyclinic.data.flaw import Flaw, guarded
from polyclinic.data.quarantine import Entry, file_hash
from polyclinic.errors import DataRejected, SiteError
from polyclinic.importing.codestream import clean_jpeg, clean_png
from polyclinic.importing.dicom_file import clean_dicom
from polyclinic.importing.folder import Found, content_of, matcher, opened, whole
from polyclinic.importing.journal import Journal, Line, ambiguous
from polyclinic.importing.nifti_file import clean_nifti
from polyclinic.importing.owners import Owners, id_of, read_owners
from polyclinic.importing.people import People
from polyclinic.importing.plan import CONTENTS, Content, ModalityRule
from polyclinic.importing.pseudonym import keyed
from polyclinic.storage import write_atomic

# Raised when the rules of de-identification change: copies of older rules are then made anew.
RULES = "1"
MAX_PICTURE_BYTES = 256 << 20
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


@dataclass
class Copied:
    """What became of one modality's files.

    Attributes:
        passed: files of another content, DICOM objects that are no images, and files of none of the
            plan's sequences.
        gone: copies whose original is no longer in the folder.
    """

    seen: int = 0
    new: int = 0
    passed: int = 0
    gone: int = 0
    entries: list[Entry] = field(default_factory=list)

    @property
    def refused(self) -> dict[str, int]:
        """Files that were not taken over, by reason code."""
        return dict(sorted(Counter(e.reason for e in self.entries).items()))


@dataclass(frozen=True)
class Task:
    """One modality of one import."""

    name: str
    rule: ModalityRule
    root: Path
    out: Path
    people: People = field(repr=False)
    journal: Journal = field(repr=False)

    @property
    def rules(self) -> str:
        """Hash of all that decides what a copy looks like."""
        told = f"{RULES}/{self.people.fold}/{self.rule.model_dump_json()}"
        return keyed(self.people.key, "rules", told, 16)


def copy_files(task: Task, files: list[Found], advance: Callable[[int], None]) -> Copied:
    """Copy what is new of a modality's files; each bad file costs itself.

    Raises:
        DataError: the table that says whose the files are cannot be read.
        CheckpointError: the disk is full or cannot be written.
    """
    result, originals, fresh = Copied(), dict[str, Path](), set[str]()
    owners = read_owners(task.root, task.name, task.rule)
    pattern = matcher(task.rule.files)
    for found in files:
        if not pattern.fullmatch(found.name):
            continue
        source = keyed(task.people.key, "source", f"{task.rules}/{found.stamp}/{found.name}")
        known = task.journal.sources.get(source)
        if known is not None:
            result.seen += 1
            task.people.twins.setdefault(known.patient, known.twin)
            originals[known.file] = found.path
        elif line := _attempt(task, found, source, owners, result):
            originals[line.file] = found.path
            fresh.add(line.file)
        advance(1)
    for line in ambiguous([task.journal.lines[f] for f in sorted(originals)]):
        task.journal.drop(line)
        result.new -= line.file in fresh
        reference = file_hash(originals[line.file])
        result.entries.append(Entry("ambiguous_series", task.name, reference, line.patient))
    for line in [ln for ln in task.journal.lines.values() if ln.modality == task.name]:
        if line.rules != task.rules:
            task.journal.drop(line)
        elif line.file not in originals:
            result.gone += 1
            task.people.twins.setdefault(line.patient, line.twin)
    return result


def _attempt(task: Task, found: Found, source: str, owners: Owners, result: Copied) -> Line | None:
    """Copy one file, or put down why not."""
    content = content_of(found.path)
    if task.rule.of and content != task.rule.of:
        result.passed += 1
        return None
    try:
        line = guarded(
            found.path,
            "a file that can be read and de-identified",
            lambda: _copy(task, found, source, content, owners),
        )
    except DataRejected as error:
        result.seen += 1
        reference = error.file_hash
        # Each refused file counts as a patient: whose it is may be just what cannot be read.
        result.entries.append(Entry(error.reason, task.name, reference))
        return None
    if line is None:
        result.passed += 1
        return None
    result.seen += 1
    result.new += 1
    task.journal.add(line)
    return line


def _copy(
    task: Task,
    found: Found,
    source: str,
    content: Content | None,
    owners: Owners,
) -> Line | None:
    """Write the clean copy; None for what is passed over.

    Raises:
        Flaw: the file is refused.
    """
    if content is None or content not in CONTENTS[task.rule.kind]:
        raise Flaw("not_an_image", "neither of the contents this kind reads")
    header = read_header(found.path) if content == "dicom" else None
    if header is not None and not _is_image(header):
        return None
    said = header_text(header, "SeriesDescription") if header is not None else found.name
    sequence = next((s for s, p in task.rule.sequences.items() if re.search(p, said)), "")
    if task.rule.sequences and not sequence:
        return None
    patient = task.people.named(id_of(task.rule.patient, found.name, header, owners.patients))
    if not patient:
        raise Flaw("no_patient_id", "none where the plan looks for it")
    record = ""
    if task.rule.record is not None:
        said = id_of(task.rule.record, found.name, header, owners.records)
        record = task.people.record(patient, said)
        if not record:
            raise Flaw("no_record_id", "none where the plan looks for it")
    target = Target(patient, record or patient, sequence, found.name)
    file = _written(task, found.path, content, target)
    name, twin = f"{task.name}/{file}", task.people.twins[patient]
    return Line(source, task.rules, task.name, name, patient, twin, sequence, record)


def _is_image(header: Dataset) -> bool:
    """False for what a PACS exports beside images: reports, presentation states, plans, waveforms.

    A kind of object that DICOM does not define is left to be refused.
    """
    kind = UID(header_text(header, "SOPClassUID"))
    return kind.type != "SOP Class" or "Image Storage" in kind.name


@dataclass(frozen=True)
class Target:
    """Whose a copy is, which decides its name.

    Attributes:
        row: pseudonym of the patient, or of the record where there are several of one.
        original: path within the imported folder.
    """

    patient: str
    row: str
    sequence: str
    original: str = field(repr=False)


def _written(task: Task, path: Path, content: Content, target: Target) -> str:
    """Write a clean copy; its name within the modality's folder."""
    folder, key = task.out / task.name, task.people.key
    short = keyed(key, "file", f"{task.name}/{target.original}", 12)
    stem = "_".join(part for part in (target.row, target.sequence, short) if part)
    if content == "nifti":
        packed = path.name.lower().endswith(".gz")
        name = f"{stem}.nii.gz" if packed else f"{stem}.nii"
        _write_nifti(path, folder / name, packed)
        return name
    if content == "dicom":
        data, burned_in = whole(path, MAX_FILE_BYTES), task.rule.burned_in
        made, clean = clean_dicom(data, key, target.patient, burned_in=burned_in)
        name = f"{stem}.dcm"
        if task.rule.kind == "volume":
            # As polyclinic.data.dicom_layout reads it: the last folder names the sequence.
            series = keyed(key, "series", str(clean.get("SeriesInstanceUID", "")), 12)
            name = f"{target.row}/{series}/{target.sequence}/{short}.dcm"
    else:
        data = whole(path, MAX_PICTURE_BYTES)
        name = f"{stem}.{'png' if content == 'png' else 'jpg'}"
        try:
            made = clean_png(data) if content == "png" else clean_jpeg(data)
        except ValueError as error:
            raise Flaw("unreadable", str(error)) from None
    write_atomic(folder / name, made)
    return name


def _write_nifti(path: Path, target: Path, packed: bool) -> None:
    """Write a clean volume, whole or not at all, without holding it in memory.

    Raises:
        SiteError: the disk is full or cannot be written; that is no fault of the file.
    """
    name = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(opened(path), "rb") as source:
            handle, name = tempfile.mkstemp(".tmp", f".{target.name}.", target.parent)
            with os.fdopen(handle, "wb") as stream:
                clean_nifti(source, stream, compressed=packed)
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(name, target)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK:
            raise SiteError(
                expected="room and permission to write in the site folder",
                got=os.strerror(error.errno),
                remedy="free space or mend the permissions, then import again",
            ) from None
        raise
