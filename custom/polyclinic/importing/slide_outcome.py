"""What became of the slides of an import, and the two tables that say so."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polyclinic.data.identity import as_id
from polyclinic.data.quarantine import Entry, QuarantineReport
from polyclinic.errors import CheckpointError
from polyclinic.importing.slide_store import unwritable
from polyclinic.storage import write_atomic

State = Literal["made", "kept", "refused"]
TABLE = "slides.csv"


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide.

    Attributes:
        slide: its output name; "" when names are kept back.
        seconds: reading with tissue search, and the network.
    """

    slide: str
    patient: str
    state: State
    tiles: int = 0
    reason: str = ""
    reference: str = ""
    seconds: tuple[float, float] = (0.0, 0.0)


def write_table(path: Path, outcomes: Sequence[SlideOutcome]) -> None:
    """Whose each slide is; rows of earlier imports stay."""
    rows: dict[str, str] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = {r["slide_id"]: r["patient_id"] for r in csv.DictReader(file)}
    rows |= {o.slide: o.patient for o in outcomes if o.state != "refused"}
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient_id", "slide_id"])
    writer.writerows(sorted((as_id(patient), slide) for slide, patient in rows.items()))
    write(path, text.getvalue().encode())


def write_quarantine(path: Path, outcomes: Sequence[SlideOutcome]) -> None:
    """The list of what was set aside, by the hash of each file."""
    refused = [o for o in outcomes if o.state == "refused"]
    entries = [Entry(o.reason, "slides", o.reference, patient=o.patient) for o in refused]
    QuarantineReport(tuple(entries), len(outcomes)).write(path)


def write(path: Path, content: bytes) -> None:
    """Write a file as a whole.

    Raises:
        SiteError: the disk is full or the folder cannot be written.
    """
    try:
        write_atomic(path, content)
    except CheckpointError as error:
        raise unwritable(error.got) from None
