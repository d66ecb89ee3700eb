"""The exception tree: a message says what was expected, what came, what to do, and who does it.

* PolyclinicError
  - StudyError           a job, a study or its settings do not fit together   (researcher)
  - SiteError            a site's settings, disk, device or kit are not as required (site IT)
  - DataError            a cohort cannot be used as it lies                   (data manager)
    . DataRejected       one file or row is refused, and only that one        (data manager)
  - ContractViolation    an update or a state is not what the contract names  (site IT)
  - TrainingDiverged     numbers ran away or collapsed                        (researcher)
  - TrainingAborted      a request to stop came while a site trained          (researcher)
  - CheckpointError      a checkpoint is torn, altered or does not fit        (site IT)
  - QuorumLost           too few sites answered                               (researcher)

Messages may leave a site, so they hold names of modalities, fields, shapes and counts only:
never a patient id, a tag value or the path of a study.
"""

import os
import traceback
from pathlib import Path
from typing import ClassVar


class PolyclinicError(Exception):
    """One sentence with four parts.

    Args:
        expected: what should have been there.
        got: what came instead (counts, shapes and names only).
        remedy: the step that mends it, as an imperative.
        owner: whose job that is; defaults to the class's own owner.
    """

    default_owner: ClassVar[str] = "researcher"
    code: ClassVar[str] = "error"

    def __init__(self, *, expected: str, got: str, remedy: str, owner: str = "") -> None:
        self.expected, self.got, self.remedy = expected, got, remedy
        self.owner = owner or self.default_owner
        super().__init__(f"Expected {expected}, got {got}; {remedy} ({self.owner}).")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[PolyclinicError], state: dict[str, str]) -> PolyclinicError:
    """Unpickle an error: keyword-only constructors need help."""
    error = kind.__new__(kind)
    text = (
        f"Expected {state['expected']}, got {state['got']}; {state['remedy']} ({state['owner']})."
    )
    Exception.__init__(error, text)
    error.__dict__.update(state)
    return error


class StudyError(PolyclinicError):
    """A job, a study or its settings do not fit together."""

    code = "study"


class SiteError(PolyclinicError):
    """A site's settings, disk, device or kit are not as required."""

    default_owner = "site IT"
    code = "site"


class DataError(PolyclinicError):
    """A cohort cannot be used as it lies."""

    default_owner = "data manager"
    code = "data"


class DataRejected(DataError):
    """One file or row is refused, and only that one.

    Args:
        reason: a reason code of ``polyclinic.data.quarantine.REASONS``.
        file_hash: first 12 hex digits of the SHA-256 of the file's bytes, or "" for a row.
    """

    code = "rejected"

    def __init__(
        self, reason: str, *, file_hash: str = "", expected: str, got: str, remedy: str
    ) -> None:
        super().__init__(expected=expected, got=got, remedy=remedy)
        self.reason, self.file_hash = reason, file_hash


class ContractViolation(PolyclinicError):
    """An update or a state is not what the contract names; it is refused whole."""

    default_owner = "site IT"
    code = "contract"


class TrainingDiverged(PolyclinicError):
    """Numbers ran away or collapsed; continuing would only waste rounds."""

    code = "diverged"


class TrainingAborted(PolyclinicError):
    """A request to stop came while a site trained."""

    code = "aborted"


class CheckpointError(PolyclinicError):
    """A checkpoint is torn, altered or does not fit the study."""

    default_owner = "site IT"
    code = "checkpoint"


class QuorumLost(PolyclinicError):
    """Too few sites answered for the round to count."""

    code = "quorum"


def place_of(error: BaseException) -> str:
    """File and line of this package that an error last went through: its text could name a
    patient, its place cannot."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f"{os.sep}polyclinic{os.sep}" in f.filename]
    return f"{Path(ours[-1].filename).name} line {ours[-1].lineno}" if ours else "an unknown place"
