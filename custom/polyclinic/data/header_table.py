"""Numbers of DICOM headers by patient: age, sex, view, geometry and exposure, and nothing else.

A panel names keywords of ``KEYWORDS``. No name, id, date, place or free text is on that list, so a
job cannot make one of them a feature.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.data.column import Request
from polyclinic.data.dicom import header_text, read_header
from polyclinic.data.field import Field
from polyclinic.data.files import DICOM_SUFFIXES, read_files
from polyclinic.data.quarantine import Entry, file_hash
from polyclinic.data.values import Findings, ValueTable
from polyclinic.data.vector import Joined
from polyclinic.errors import DataRejected, StudyError

KEYWORDS = frozenset(
    {
        "PatientAge",
        "PatientSex",
        "PatientSize",
        "PatientWeight",
        "Modality",
        "BodyPartExamined",
        "ViewPosition",
        "PatientPosition",
        "Laterality",
        "ImageLaterality",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
        "BitsStored",
        "KVP",
        "Exposure",
        "ExposureInuAs",
        "ExposureTime",
        "XRayTubeCurrent",
        "DistanceSourceToDetector",
        "DistanceSourceToPatient",
        "SliceThickness",
        "SpacingBetweenSlices",
        "MagneticFieldStrength",
        "RepetitionTime",
        "EchoTime",
        "InversionTime",
        "FlipAngle",
    }
)


def read_headers(request: Request, fields: Sequence[Field]) -> tuple[ValueTable, Joined]:
    """One row per patient, of the first readable file by name, and which row is whose.

    Raises:
        StudyError: a field is none of ``KEYWORDS``.
        DataRejected: the table of files as a whole is refused.
        DataError: no such folder.
    """
    _require_keywords(request, fields)
    files = read_files(request, DICOM_SUFFIXES)
    rows, entries = _Rows(fields), list(files.entries)
    for pseudonym, own in sorted(files.files.items()):
        readable, refused = _first([f.path for f in own])
        entries += [Entry(e.reason, request.name, e.file_hash, pseudonym) for e in refused]
        if readable is not None:
            rows.add(pseudonym, *readable)
        request.tick(1)
    order = {pseudonym: i for i, pseudonym in enumerate(request.ids)}
    places = {order[pseudonym]: i for i, pseudonym in enumerate(rows.ids)}
    return rows.table(), Joined(places, tuple(entries), files.duplicates, files.outside)


class _Rows:
    """The numbers of one header after the other."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.readers = [(f.column, f.reader(decimal_comma=False)) for f in fields]
        self.findings = Findings()
        self.ids: list[str] = []
        self.values: list[list[float]] = []
        self.hashes: dict[int, str] = {}

    def add(self, pseudonym: str, path: Path, header: Any) -> None:
        """Take the header of a patient's file."""
        row, before = len(self.ids), len(self.findings.flaws)
        pairs = [read(header_text(header, keyword)) for keyword, read in self.readers]
        for place, (_, cause) in enumerate(pairs):
            self.findings.note(cause, row, place)
        if len(self.findings.flaws) > before:
            self.hashes[row] = file_hash(path)
        self.ids.append(pseudonym)
        self.values.append([value for value, _ in pairs])

    def table(self) -> ValueTable:
        """The rows so far."""
        wide = np.array(self.values, dtype=np.float64).reshape(-1, len(self.readers))
        return self.findings.table(self.ids, [], wide, hashes=self.hashes)


def _first(paths: Sequence[Path]) -> tuple[tuple[Path, Any] | None, list[DataRejected]]:
    """The first file whose header can be read, and why those before it cannot."""
    refused: list[DataRejected] = []
    for path in paths:
        try:
            return (path, read_header(path)), refused
        except DataRejected as error:
            refused.append(error)
    return None, refused


def _require_keywords(request: Request, fields: Sequence[Field]) -> None:
    """Refuse a panel that asks for more than the list.

    Raises:
        StudyError: naming the first such feature, or an age that is read as something else.
    """
    for field in fields:
        if field.column == "PatientAge" and field.rule.reads != "age":
            raise StudyError(
                expected=f"'{field.feature}' of modality '{request.name}' read as an age, which "
                "is one group above 89",
                got=f"'{field.rule.reads}'",
                remedy="set reads: age",
            )
        if field.column not in KEYWORDS:
            raise StudyError(
                expected=f"'{field.feature}' of modality '{request.name}' from one of the DICOM "
                "keywords that are read",
                got="another keyword",
                remedy=f"use {', '.join(sorted(KEYWORDS))}",
            )
