"""A study: the facts every site must agree on, read from a job's ``app/config/study.json``.

One file states the task, the modalities with their shared feature panels, the split rule and the
seed; server and sites both read it, so no fact is written twice in a job. It is data: validated by
pydantic, nothing in it is ever evaluated or imported. Whoever writes a job chooses what a hospital
allocates, so every size has a limit here.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from polyclinic.errors import StudyError
from polyclinic.task import MAX_CLASSES as MAX_CLASSES
from polyclinic.task import Label as Label
from polyclinic.task import Mask as Mask
from polyclinic.task import Name as Name
from polyclinic.task import Strict, Word
from polyclinic.task import Task as Task

Kind = Literal["vector", "bag", "image", "volume", "series"]
Finite = Annotated[float, Field(allow_inf_nan=False)]

MAX_EMBEDDING = 4096
MAX_FEATURES = 200_000
MAX_DIM = 16_384
MAX_INSTANCES = 10_000_000
MAX_MODALITIES = 64
MAX_FILE_BYTES = 32 << 20


class FieldRule(Strict):
    """How one number of a panel comes out of a table's cell, the same at every site.

    Attributes:
        column: of the table, or keyword of a DICOM header; the feature's own name when empty.
        reads: ``number``; ``age`` in years from ``45``, ``045Y``, ``18M`` or ``90+``, capped at
            90; ``category``: 1 where the cell is ``category``, 0 where it is another of ``among``.
        low, high: what is possible, in the study's unit; a value outside is set aside.
        units: of the number; a site declares its own per column (``field_units``).
        factors: by a unit that a site may declare instead, what to multiply by.
        offsets: by the same unit, what to add afterwards (degrees Fahrenheit to Celsius).
    """

    column: str = Field(default="", max_length=256)
    reads: Literal["number", "age", "category"] = "number"
    low: Finite | None = None
    high: Finite | None = None
    category: str = Field(default="", max_length=256)
    among: tuple[Word, ...] = Field(default=(), max_length=256)
    units: str = Field(default="", max_length=64)
    factors: dict[Word, Finite] = Field(default_factory=dict, max_length=64)
    offsets: dict[Word, Finite] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="after")
    def _fits(self) -> "FieldRule":
        if (self.reads == "category") != bool(self.category):
            raise ValueError("a category, and only a category, names the cell that counts as 1")
        if self.category and self.category not in self.among:
            raise ValueError("category is one of among")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low is below high")
        if any(f == 0 for f in self.factors.values()):
            raise ValueError("a factor is not 0")
        if self.reads != "number" and (self.units or self.factors):
            raise ValueError("units and factors belong to what reads a number; ages are in years")
        if (self.factors and not self.units) or set(self.offsets) - set(self.factors):
            raise ValueError("factors need units to convert to, and an offset needs its factor")
        return self


class Modality(Strict):
    """One modality as the study fixes it: a name plus a kind, no code.

    Attributes:
        kind: which reader and encoder family serve it.
        features: the shared panel, names in order (kinds ``vector`` and ``series``), or the named
            sequences of a ``volume``.
        fields: by feature, how it is read where a plain number is not enough.
        dim: length of one instance feature (kind ``bag``), channels of an ``image`` (1).
        max_instances: most instances of a ``bag`` that are used, drawn by the seed; 0 uses all.
        units: what the numbers mean, compared as text with what each site declares.
        extractor: which frozen network made the features (kind ``bag``), compared as text.
        mean: agreed centre per feature; empty means each site standardises by its own statistics.
        scale: agreed spread per feature, with ``mean``.
        recipe: how files become arrays (size, spacing, hours), checked by the kind's reader; it is
            part of the agreement, since an encoder means nothing on another recipe's arrays.
        encoder: settings of the encoder, checked by ``polyclinic.models.build``.
    """

    kind: Kind
    features: tuple[Word, ...] = Field(default=(), max_length=MAX_FEATURES)
    fields: dict[Word, FieldRule] = Field(default_factory=dict, max_length=MAX_FEATURES)
    dim: int = Field(default=0, ge=0, le=MAX_DIM)
    max_instances: int = Field(default=0, ge=0, le=MAX_INSTANCES)
    units: str = Field(default="", max_length=256)
    extractor: str = Field(default="", max_length=256)
    mean: tuple[Finite, ...] = Field(default=(), max_length=MAX_FEATURES)
    scale: tuple[Finite, ...] = Field(default=(), max_length=MAX_FEATURES)
    recipe: dict[str, Any] = Field(default_factory=dict)
    encoder: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sizes(self) -> "Modality":
        if self.kind in ("vector", "series", "volume") and not self.features:
            raise ValueError(f"a {self.kind} needs a panel: features must not be empty")
        if set(self.fields) - set(self.features):
            raise ValueError("fields hold rules for features of the panel only")
        if len(set(self.features)) != len(self.features):
            raise ValueError("feature names repeat")
        if self.kind == "bag" and self.dim < 1:
            raise ValueError("a bag needs dim, the length of one instance feature")
        for stats in (self.mean, self.scale):
            if stats and len(stats) != len(self.features):
                raise ValueError("mean and scale need one value per feature")
        if any(s <= 0 for s in self.scale) or bool(self.mean) != bool(self.scale):
            raise ValueError("mean and scale come together and scale is positive")
        return self

    @property
    def width(self) -> int:
        """Numbers per patient (vector), per instance (bag) or per time step (series); sequences
        of a volume, channels of an image."""
        return len(self.features) or self.dim or 1


class Split(Strict):
    """How a site divides its patients; always by patient, never by record.

    Attributes:
        source: ``random`` draws by the study's seed, ``manifest`` reads the ``split`` column.
        test: fraction held out.
        validation: fraction of the remaining patients used for choices, never for training.
        stratify: keep the class proportions where a class has at least two patients.
    """

    source: Literal["random", "manifest"] = "random"
    test: float = Field(default=0.2, ge=0.0, lt=1.0)
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    stratify: bool = True


class Scans(Strict):
    """How the sequences of a segmentation are read together, and by what network.

    Attributes:
        recipe: how the files of a patient become one stack, checked by ``polyclinic.data.scan``.
        network: settings of the network, checked by ``polyclinic.models.scan``.
    """

    recipe: dict[str, Any] = Field(default_factory=dict)
    network: dict[str, Any] = Field(default_factory=dict)


class Study(Strict):
    """The whole agreement.

    Attributes:
        name: of the cohort that every site's ``polyclinic.yaml`` must declare.
        embedding: length D of every modality's embedding.
        scans: of a segmentation, whose modalities are the sequences of one scan: volumes of one
            sequence each.
    """

    name: Name
    task: Task
    modalities: dict[Name, Modality] = Field(min_length=1, max_length=MAX_MODALITIES)
    embedding: int = Field(default=256, ge=2, le=MAX_EMBEDDING)
    split: Split = Split()
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    scans: Scans | None = None

    @model_validator(mode="after")
    def _one_scan(self) -> "Study":
        if self.task.segments != (self.scans is not None):
            raise ValueError("a task with a mask, and only such a one, needs scans")
        for modality in self.modalities.values() if self.scans is not None else ():
            if modality.kind != "volume" or len(modality.features) != 1:
                raise ValueError("a segmentation reads volumes of one sequence each")
            if modality.recipe or modality.encoder:
                raise ValueError("recipe and network of a segmentation stand under scans")
        return self

    @model_validator(mode="after")
    def _named_apart(self) -> "Study":
        if set(self.task.labels) & set(self.modalities):
            raise ValueError("a label and a modality differ in name: scores are named for both")
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON: two sites with the same value agreed on the same study."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def parse_study(payload: dict[str, Any]) -> Study:
    """A validated study.

    Raises:
        StudyError: naming the first field that is wrong.
    """
    try:
        return Study.model_validate(payload)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "study"
        raise StudyError(
            expected=f"a valid study at '{where}'",
            got=f"{first['msg']} ({error.error_count()} problem(s) in all)",
            remedy="correct study.json",
        ) from None


def read_json(path: Path) -> object:
    """The content of a JSON file that another party wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: not JSON, larger than ``MAX_FILE_BYTES``, or nested too deeply to be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")  # a pipe would be waited for without end
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES >> 20} MiB")
    try:
        content: object = json.loads(raw.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return content


def load_study(folder: Path) -> Study:
    """Read ``study.json`` in ``folder``; ``panels.json`` beside it, when there, supplies features.

    ``panels.json`` maps a modality to the fields it fills in (features, mean, scale), which keeps
    a panel of thousands of genes out of the file a person reads.

    Raises:
        StudyError: a file cannot be read, or the study is not valid.
    """
    try:
        payload = read_json(folder / "study.json")
        panels = folder / "panels.json"
        extra = read_json(panels) if panels.exists() else {}
    except (OSError, ValueError) as error:
        raise StudyError(
            expected="a readable study.json (and panels.json) in the job's app/config",
            got=type(error).__name__,
            remedy="copy both files into the job and check that they are JSON",
        ) from None
    if not isinstance(payload, dict) or not isinstance(extra, dict):
        raise StudyError(expected="JSON objects", got="another JSON type", remedy="mend study.json")
    return parse_study(_filled(payload, extra))


def _filled(payload: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The study with the fields of its panels.

    Raises:
        StudyError: the panels belong to something else than an object of modalities.
    """
    modalities = payload.get("modalities", {})
    for name, fields in extra.items():
        place = modalities.setdefault(name, {}) if isinstance(modalities, dict) else None
        if not isinstance(fields, dict) or not isinstance(place, dict):
            raise StudyError(
                expected="an object for every modality in study.json and panels.json",
                got="another JSON type",
                remedy="mend the two files",
            )
        place.update(fields)
    return payload
