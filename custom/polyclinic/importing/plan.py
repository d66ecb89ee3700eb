"""What a hospital says about its folder, in ``import.yaml``; it stays at the site.

site: hosp-a
cohort: chest                            # the study's name
labels: {table: outcome.csv, id: PATNR, columns: {outcome: DIAGNOSIS, split: SPLIT}}
modalities:
  film: {kind: image, files: "films/**/*", patient: {dicom: PatientID}}
  mri:
    kind: volume
    files: "mri/*.nii.gz"
    patient: {name: "^(patient[0-9]+)_"}
    sequences: {t1: "_T1\\\\.", flair: "_FLAIR\\\\."}
  labs:
    kind: vector
    table: labs.csv
    id: PATNR
    columns: {hb: HB_G_DL, crp: CRP}
    age: {column: age, born: BIRTH, at: ADMITTED}
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from polyclinic.study import Name

Content = Literal["dicom", "nifti", "png", "jpeg"]
CONTENTS: dict[str, tuple[Content, ...]] = {
    "image": ("dicom", "png", "jpeg"),
    "volume": ("nifti", "dicom"),
}
Heading = Annotated[str, Field(min_length=1, max_length=256)]
OutName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]


def _pattern(text: str) -> str:
    """A regular expression that can be used.

    Raises:
        ValueError: it cannot.
    """
    try:
        re.compile(text)
    except re.error:
        raise ValueError("a regular expression that Python reads") from None
    return text


def _one_group(text: str) -> str:
    """A regular expression with one group, which finds the patient id."""
    if re.compile(_pattern(text)).groups != 1:
        raise ValueError("a regular expression with one group in ( ), around the patient id")
    return text


def _inside(text: str) -> str:
    """A path below the folder, as written."""
    parts = text.replace("\\", "/").split("/")
    if text.startswith("/") or ".." in parts or not text.strip():
        raise ValueError("a place inside the folder that is imported")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
Place = Annotated[str, AfterValidator(_inside), Field(max_length=512)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Finder(_Strict):
    """Where the id of a file's patient, or record, stands; exactly one of the four.

    Attributes:
        dicom: attribute of the file's header.
        name: regular expression over the file's name, with one group around the id.
        folder: how many folders below the imported one the patient's folder lies; 1 is the first.
        table: CSV with the columns ``file`` (path in the folder, name, or name without suffix) and
            ``id``.
    """

    dicom: Literal["", "PatientID", "AccessionNumber", "StudyID"] = ""
    name: Annotated[str, AfterValidator(_one_group)] | None = None
    folder: int = Field(default=0, ge=0, le=16)
    table: Place | None = None
    file: Heading = "file"
    id: Heading = "patient_id"

    @model_validator(mode="after")
    def _one(self) -> "Finder":
        if sum(map(bool, (self.dicom, self.name, self.folder, self.table))) != 1:
            raise ValueError("an id is found by one of dicom, name, folder or table")
        return self


class AgeRule(_Strict):
    """Age in whole years, above 89 as ``90+``, from two dates that are not taken over.

    Attributes:
        column: name that the age gets.
        born: column with the date of birth.
        at: column with the date at which the age counts.
    """

    column: OutName = "age"
    born: Heading
    at: Heading


class HoursRule(_Strict):
    """Hours since a patient's own start, from two times that are not taken over.

    Attributes:
        column: name that the hours get.
        at: column with the time of the row.
        since: column with the patient's start; "" is the patient's first row.
    """

    column: OutName = "hour"
    at: Heading
    since: str = ""


class TableRule(_Strict):
    """A table of which named columns are taken over, and no other.

    Attributes:
        id: column with the patient id.
        columns: by new name, the table's own; codes and numbers, never free text.
        codes: by new name, the codes of a column that would count as free text; other cells, and
            combinations of others with ``|``, ``;`` or ``,``, become blank.
        record: column that names one record (film, visit) of a patient; becomes a pseudonym.
    """

    table: Place
    id: Heading = "patient_id"
    columns: dict[OutName, Heading] = Field(default_factory=dict, max_length=20_000)
    codes: dict[OutName, tuple[Heading, ...]] = Field(default_factory=dict)
    age: AgeRule | None = None
    hours: HoursRule | None = None
    record: str = ""

    @model_validator(mode="after")
    def _something(self) -> "TableRule":
        if not (self.columns or self.age):
            raise ValueError("columns names what is taken over of the table")
        if set(self.codes) - set(self.columns):
            raise ValueError("codes are of columns that are taken over")
        if self.id in self.columns.values():
            raise ValueError("the column of the patient id is not taken over as a value")
        return self


class ModalityRule(_Strict):
    """One modality: a table, or files.

    Attributes:
        files: glob below the folder, ``**`` for any depth.
        of: takes files of this content only and passes over others; "" takes what the kind reads.
        sequences: of a volume, by name a regular expression over the file's name, or over
            SeriesDescription of a DICOM file.
        patient, record: where a file's ids stand; a record (film, visit) if labels name one.
        burned_in: ``accept`` imports films whose header says or suggests text in the pixels.
        headers_of: a ``vector`` of age, sex and the like from the headers of these DICOM films.
        layout: ``omop`` of a series with one row per measurement.
    """

    kind: Literal["vector", "series", "image", "volume"]
    files: Place = ""
    of: Literal["", "dicom", "nifti", "png", "jpeg"] = ""
    patient: Finder | None = None
    record: Finder | None = None
    sequences: dict[Name, Pattern] = Field(default_factory=dict)
    burned_in: Literal["refuse", "accept"] = "refuse"
    source: TableRule | None = None
    headers_of: str = ""
    layout: Literal["", "omop"] = ""
    units: str = ""

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, value: object) -> object:
        """The fields of a table are written beside ``kind``."""
        if not isinstance(value, dict) or "table" not in value:
            return value
        # 'record' is the name of a column here, and a rule where there are files.
        mine = {k: v for k, v in value.items() if k not in TableRule.model_fields}
        return {**mine, "source": {k: v for k, v in value.items() if k in TableRule.model_fields}}

    @model_validator(mode="after")
    def _fits(self) -> "ModalityRule":
        if self.layout and self.kind != "series":
            raise ValueError("layout is for a series")
        if self.headers_of:
            if self.kind != "vector" or self.source or self.files:
                raise ValueError("headers_of is for a vector without table and files")
            return self
        if self.kind in ("vector", "series"):
            if self.source is None or self.files or self.patient or self.record:
                raise ValueError(f"a {self.kind} is imported from table, id and columns")
            return self
        if not self.files or self.patient is None or self.source is not None:
            raise ValueError(f"a {self.kind} is imported from files and patient")
        if self.of and self.of not in CONTENTS[self.kind]:
            raise ValueError(f"the files of a {self.kind} are {' or '.join(CONTENTS[self.kind])}")
        if (self.kind == "volume") != bool(self.sequences):
            raise ValueError("a volume, and only a volume, names its sequences")
        if self.kind == "volume" and not self.of:
            raise ValueError("a volume says of what its files are: nifti or dicom")
        finders = [f for f in (self.patient, self.record) if f is not None]
        if any(f.dicom for f in finders) and (self.of or "dicom") != "dicom":
            raise ValueError("an id is read from DICOM headers where the files are DICOM")
        return self


class ImportPlan(_Strict):
    """The whole description.

    Attributes:
        storage: where the key and the journal lie, relative to the site folder; outside of it, the
            site folder can be copied without the key.
        labels: becomes the manifest.
        twins: ids that differ only in case or leading zeros make the import fail, are two patients
            (``apart``), or one (``same``).
        link_table: keep, at the site, which pseudonym is whose.
        max_loss_fraction: largest share of files and rows that may be left out.
    """

    site: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    cohort: Name
    storage: str = "state"
    patient_column: OutName = "patient_id"
    labels: TableRule
    modalities: dict[Name, ModalityRule] = Field(min_length=1, max_length=64)
    twins: Literal["refuse", "apart", "same"] = "refuse"
    link_table: bool = False
    max_loss_fraction: float = Field(default=0.01, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _free_names(self) -> "ImportPlan":
        taken = {"labels", "tables", *self.storage.split("/")}
        if taken & set(self.modalities):
            raise ValueError(f"a modality is not named {' or '.join(sorted(taken))}")
        return self

    @model_validator(mode="after")
    def _joined(self) -> "ImportPlan":
        for rule in self.modalities.values():
            told = self.modalities.get(rule.headers_of)
            if rule.headers_of and (told is None or told.kind != "image"):
                raise ValueError("headers_of names an image modality of the plan")
            named = rule.source.record if rule.source is not None else rule.record
            if not rule.headers_of and bool(named) != bool(self.labels.record):
                raise ValueError("record is named by labels and by every modality, or by none")
        return self
