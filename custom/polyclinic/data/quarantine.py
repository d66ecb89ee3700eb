"""What a cohort leaves out and why: reason codes, counts, and a list that stays at the site.

A bad row or file never stops a cohort and never disappears silently: it becomes an ``Entry``.
Counts by reason may be told (they hold no identity); the list of references is written at the
site only, and refers to lines and file hashes, never to a patient.
"""

import csv
import hashlib
import io
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.errors import CheckpointError, DataError, SiteError
from polyclinic.storage import write_atomic

REASONS: dict[str, str] = {
    "no_patient_id": "the row has no patient id",
    "no_record_id": "the row has no record id",
    "ragged_row": "the row has more or fewer cells than the header",
    "bad_label": "no label is known, or a cell is none of those the study names",
    "bad_split": "the split column holds neither train, validation nor test",
    "no_modality": "the patient carries no modality of the study",
    "missing_file": "a listed file is not there",
    "unsafe_name": "a listed file name points outside the folder",
    "unreadable": "the file cannot be opened or is cut short",
    "no_dataset": "the file lacks the dataset its layout names",
    "empty_file": "the file holds no instance",
    "wrong_shape": "the features are not a table of instances",
    "wrong_width": "an instance has another length than the study's",
    "wrong_dtype": "the features are not numbers",
    "not_finite": "the features hold NaN or infinity",
    "too_large": "the file claims more data than is allowed",
    "extractor_mismatch": "the file names another extractor than the site declares",
    "unit_mismatch": "the file measures its tiles in another unit than micrometres",
    "linked_data": "the file points to data in other files",
    "not_an_image": "the file is no DICOM, PNG or JPEG image",
    "no_pixels": "the file holds no pixels",
    "bad_header": "the header lacks or contradicts what the pixels need",
    "unsupported_syntax": "the pixels are compressed in a way that is not read",
    "unsupported_photometric": "the pixels' meaning (photometric interpretation) is not read",
    "multi_frame": "the file holds several frames where one is expected",
    "burned_in": "the header says that text is burned into the pixels",
    "constant_image": "all pixels are the same",
    "bad_affine": "the orientation matrix is zero, singular or not finite",
    "wrong_dimensions": "the volume does not have three dimensions",
    "empty_volume": "cut and normalised, the patient's volumes are 0 everywhere: they show one "
    "value, or nothing above 0",
    "huge_values": "the volume holds numbers too large to normalise",
    "different_grids": "the sequences of a patient do not lie on grids that can be joined",
    "no_mask": "the patient has no mask, which says what is to be predicted",
    "bad_mask": "the mask cannot be read, holds other numbers than the study's classes, or lies in "
    "another place than the scan",
    "missing_slices": "slices of the series are missing or repeat",
    "ambiguous_series": "several series or files answer to the name of one sequence",
    "unsupported_slide": "the slide is of no format that is read by tiles",
    "no_mpp": "the slide does not say how large its pixels are",
    "no_tissue": "no tissue was found on the slide",
    "repeated_name": "another file of the folder has the same name",
    "too_coarse": "the slide has fewer pixels per micrometre than the tiles ask for",
    "tile_mismatch": "the file's tiles have another size or resolution than the study's",
    "impossible_value": "a value outside what the study calls possible",
    "unknown_category": "a cell is none of the study's categories",
    "unknown_unit": "the row's unit is none that the study converts",
    "no_time": "the row has no time that can be read",
}

# References to whole tables, for errors that refuse a table rather than a row.
TABLE_REASONS: dict[str, str] = {
    "unreadable_table": "the table cannot be opened or decoded",
    "control_characters": "the table holds NUL or other control characters",
    "malformed_table": "quotes or rows of the table do not close",
    "no_patient_column": "the table lacks the patient column",
    "duplicate_columns": "two columns of the table have the same name",
    "table_too_large": "the table is larger than a text table may be",
}

FORMULA = frozenset("=+-@\t\r\n")


def is_pipe(path: Path) -> bool:
    """Whether opening would wait for ever, or reading never end: a pipe, a socket or a device."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # absent, or out of reach: opening says so
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def file_hash(path: Path) -> str:
    """First 12 hex digits of the SHA-256 of a file; "" when it cannot be read."""
    if is_pipe(path):
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError:
        return ""


@dataclass(frozen=True)
class Entry:
    """One row or file that was left out.

    Attributes:
        reason: a key of ``REASONS``.
        modality: of the file or table; "" for the manifest.
        reference: line of the table, or first 12 hex digits of the file's SHA-256.
        patient: used to count distinct patients; never printed, written or sent.
        partial: only a value or a moment is lost, the patient keeps the rest of the file.
        count: how many cells or rows it stands for, where a list of all would be endless.
    """

    reason: str
    modality: str = ""
    reference: str = ""
    patient: str = field(default="", repr=False)
    partial: bool = False
    count: int = 1


def _patients_of(entries: Iterable[Entry]) -> int:
    """Different patients of entries; one without a patient counts as one."""
    named, nameless = set(), 0
    for entry in entries:
        named |= {entry.patient} - {""}
        nameless += not entry.patient
    return len(named) + nameless


@dataclass(frozen=True)
class QuarantineReport:
    """All entries of one cohort.

    Attributes:
        patients: patients of the manifest that were looked at.
    """

    entries: tuple[Entry, ...] = ()
    patients: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """What was left out by reason code, sorted by code; for people at the site."""
        return _counted(self.entries)

    @property
    def lost(self) -> dict[str, int]:
        """Rows and files by reason code; what may leave the site.

        Single values stay out: the job says which are possible, so their number would answer
        any question about them.
        """
        return _counted(e for e in self.entries if not e.partial)

    @property
    def affected(self) -> int:
        """Patients that lost a row or file; a row without a patient counts as one.

        Single values do not count: a typing error in one of a hundred results costs that result.
        """
        return _patients_of(e for e in self.entries if not e.partial)

    @property
    def people(self) -> dict[str, int]:
        """Patients behind each number of ``lost``, counted as ``affected`` is."""
        whole = [e for e in self.entries if not e.partial]
        return {r: _patients_of(e for e in whole if e.reason == r) for r in self.lost}

    @property
    def fraction(self) -> float:
        """Share of patients affected, in [0, 1]."""
        return min(1.0, self.affected / self.patients) if self.patients else 0.0

    def joined(self, entries: Iterable[Entry]) -> "QuarantineReport":
        """The same report with more entries."""
        return QuarantineReport((*self.entries, *entries), self.patients)

    def require(self, max_fraction: float) -> None:
        """Refuse a cohort that lost more patients than the site allows.

        Raises:
            DataError: without numbers, since a job chooses what is counted: with the patient
                column as label, a count would say whether somebody is here.
        """
        if self.fraction > max_fraction:
            raise DataError(
                expected="no more quarantined patients than max_loss_fraction allows",
                got="more",
                remedy="mend what 'polyclinic data check' lists, or raise max_loss_fraction",
            )

    def write(self, path: Path) -> None:
        """Write the list for the data manager, atomically; it stays at the site.

        Raises:
            SiteError: the site's storage cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["reason", "modality", "reference", "meaning"])
        for e in self.entries:
            row = [e.reason, e.modality, e.reference, REASONS[e.reason]]
            writer.writerow([inert(c) for c in row])
        try:
            write_atomic(path, text.getvalue().encode())
        except CheckpointError as error:
            raise SiteError(
                expected="a storage folder that can be written",
                got=error.got,
                remedy="correct 'storage' in polyclinic.yaml, or free space there",
            ) from None


def inert(cell: str) -> str:
    """The cell, with an apostrophe before what a spreadsheet would run as a formula."""
    return f"'{cell}" if cell[:1] in FORMULA else cell


def _counted(entries: Iterable[Entry]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry.reason] += entry.count
    return dict(sorted(counts.items()))
