"""A first ``import.yaml`` for a folder, from what kinds of files lie there and how many.

Nothing that stands in a file, and no name of a file or folder, goes into it: counts by content and
by DICOM modality (a closed list of codes) only. What a person must fill in is in capitals.
"""

from collections import Counter
from pathlib import Path

from polyclinic.data.dicom import header_text, read_header
from polyclinic.errors import DataError, DataRejected
from polyclinic.importing.actions import CODES
from polyclinic.importing.folder import content_of, walk

# Headers that are opened to see of which modality the DICOM files are.
SAMPLE = 500
_FILMS = frozenset({"CR", "DX", "DR", "RG", "MG"})
_VOLUMES = frozenset({"MR", "CT", "PT"})
_SLIDES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".bif"})
_HEAD = """# What 'polyclinic data import' does with this folder. Fill in what is in capitals.
# Give modalities the names of the study, and remove what the study does not ask for.
# {found}
site: HOSPITAL
cohort: cohort  # the study's name
labels: {{table: LABELS.csv, id: PATIENT_COLUMN, columns: {{outcome: OUTCOME_COLUMN}}}}
modalities:
"""
_BLOCKS = {
    "film": """  film:
    kind: image
    files: "**/*"
    of: {of}
    patient: {patient}
""",
    "volume": """  scan:
    kind: volume
    files: "**/*"
    of: {of}
    patient: {patient}
    sequences: {{t1: "T1", t2: "T2"}}  # the first found in a name counts: T1POST before T1
""",
    "table": """  labs:
    kind: vector
    table: TABLE.csv
    id: PATIENT_COLUMN
    columns: {value: VALUE_COLUMN}
    age: {column: age, born: BIRTH_COLUMN, at: DATE_COLUMN}
""",
}
_BY_TAG = "{dicom: PatientID}"
_BY_NAME = "{name: '^([^_.]+)'}  # or folder: 1, or table: FILES.csv"


def draft_plan(folder: Path) -> str:
    """The text of an ``import.yaml`` to start from.

    Raises:
        DataError: no such folder, or nothing in it that an import reads.
    """
    counts, kinds = _looked(folder)
    blocks = []
    if counts["dicom"] and (kinds & _FILMS or not kinds & _VOLUMES):
        blocks.append(_BLOCKS["film"].format(of="dicom", patient=_BY_TAG))
    blocks += [
        _BLOCKS["film"].format(of=of, patient=_BY_NAME).replace("film:", f"film_{of}:", 1)
        for of in ("png", "jpeg")
        if counts[of]
    ]
    if counts["dicom"] and kinds & _VOLUMES:
        blocks.append(_BLOCKS["volume"].format(of="dicom", patient=_BY_TAG))
    if counts["nifti"]:
        block = _BLOCKS["volume"].format(of="nifti", patient=_BY_NAME)
        blocks.append(block.replace("scan:", "scan_nifti:", 1))
    if counts["table"]:
        blocks.append(_BLOCKS["table"])
    if not blocks:
        raise DataError(
            expected="DICOM, NIfTI, PNG, JPEG or CSV files in the folder",
            got=f"{counts['slide']} slide(s) and {counts['other']} other file(s)",
            remedy="check the path; slides are for 'polyclinic data import slides'",
        )
    found = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    return _HEAD.format(found=f"Found: {found}.") + "".join(blocks)


def _looked(folder: Path) -> tuple[Counter[str], set[str]]:
    """Files by content, and the DICOM modalities among the first ``SAMPLE`` headers."""
    if not folder.is_dir():
        raise DataError(
            expected="a folder to import", got="none of that name", remedy="check the path"
        )
    counts: Counter[str] = Counter()
    kinds: set[str] = set()
    for found in walk(folder.resolve()):
        suffix = found.path.suffix.lower()
        plain = "table" if suffix in (".csv", ".tsv", ".txt") else "other"
        content: str = "slide" if suffix in _SLIDES else content_of(found.path) or plain
        counts[content] += 1
        if content == "dicom" and counts[content] <= SAMPLE:
            try:
                kinds.add(header_text(read_header(found.path), "Modality"))
            except DataRejected:
                counts["damaged dicom"] += 1
    return counts, kinds & CODES["Modality"]
