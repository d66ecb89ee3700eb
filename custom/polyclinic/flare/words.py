"""What an error may say when it leaves a site: a known code, an owner, and a sentence.

A sentence about data is never the one that was raised: a job chooses the label and the classes,
so whatever such a sentence says would answer a question about patients. It is replaced by a fixed
one, and the data manager reads the original at the site. Sentences about the job, the site's
settings and the contract pass, unless they look as if they held more than that.
"""

import builtins
import re
from collections.abc import Mapping
from typing import Any

ABOUT_DATA = (
    "The cohort at this site cannot be used for this study; the data manager sees why with "
    "'polyclinic data check'."
)
# Only the class of an exception is told, and only one of Python's own or torch's.
ABOUT_EXCEPTION = "{kind}; its text stayed at the site."
FIXED = {"data": ABOUT_DATA, "rejected": ABOUT_DATA}
FREE = frozenset(
    {"study", "site", "contract", "checkpoint", "quorum", "aborted", "worker_lost"}
    | {"worker_timeout", "error"}
)
UNNUMBERED = frozenset({"diverged"})  # its numbers were computed from patients
CODES = frozenset(FIXED) | FREE | UNNUMBERED | {"exception"}
KINDS = frozenset(n for n, v in vars(builtins).items() if isinstance(v, type)) | {
    "OutOfMemoryError",
    "AcceleratorError",
}

OWNERS = ("researcher", "site IT", "data manager")
SENTENCE_LENGTH = 600
# What identifies a patient or a place has no place in a sentence. A second net, not a proof.
SUSPECT = re.compile(
    r"(?:^|[\s'\"(=:])~?/\w|[A-Za-z]:\\"  # absolute paths
    r"|\d{4}-\d\d-\d\d|\d{6}|\d{3}-\d\d"  # dates, record numbers, telephone numbers
    r"|\S@\S|\w\^\w"  # addresses, DICOM person names
    r"|\d+(?:\.\d+){3}"  # DICOM UIDs, network addresses
    r"|\b[A-Z0-9]{2,}(?:-[A-Z0-9]{2,}){2}"  # barcodes
)
NUMBER = re.compile(r"(?<!\w)[-+]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?%?")
WITHHELD = "The sentence stayed at the site: it held what may identify somebody."


def leaving_words(told: Mapping[str, Any]) -> dict[str, str]:
    """Code, owner, message and incident of an error, each only when it may leave.

    An error of an unknown code leaves without its message.
    """
    clean: dict[str, str] = {}
    code, owner, incident = told.get("code"), told.get("owner"), told.get("incident")
    if isinstance(code, str) and code in CODES:
        clean["code"] = code
    if isinstance(owner, str) and owner in OWNERS:
        clean["owner"] = owner
    if isinstance(told.get("message"), str):
        clean["message"] = _sentence(clean.get("code", ""), told["message"])
    if isinstance(incident, str) and re.fullmatch(r"[0-9a-f]{12}", incident):
        clean["incident"] = incident
    return clean


def _sentence(code: str, message: str) -> str:
    """The sentence that leaves in place of this one."""
    if code in FIXED:
        return FIXED[code]
    if code == "exception":
        kind = re.match(r"\w+", message, re.ASCII)
        known = kind is not None and kind[0] in KINDS
        return ABOUT_EXCEPTION.format(kind=kind[0] if known and kind else "An exception")
    if code in UNNUMBERED:
        message = NUMBER.sub("…", message)
    safe = len(message) <= SENTENCE_LENGTH and message.isprintable()
    return message if code and safe and not SUSPECT.search(message) else WITHHELD
