"""One line of what a check of a cohort says."""

from dataclasses import dataclass
from typing import Literal

from polyclinic.errors import DataError

Level = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: what was looked at.
        modality: "" when it concerns the cohort.
        remedy: "" when there is nothing to do.
    """

    check: str
    level: Level
    message: str
    modality: str = ""
    remedy: str = ""


def failed(check: str, error: DataError, modality: str = "") -> Finding:
    """A finding made of an error."""
    message = f"expected {error.expected}, got {error.got}"
    return Finding(check, "failed", message, modality, error.remedy)
