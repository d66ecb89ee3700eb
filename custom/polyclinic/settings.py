"""A hospital's own facts, in its ``local/polyclinic.yaml``; they never travel.

site: hosp-a
storage: state                 # personal heads, quarantine lists; relative to this file
minimum_cell: 11               # no count below this leaves the site
cohorts:
  tcga_brca:
    root: /data/polyclinic/brca
    modalities:
      he:  {kind: vector, table: he.parquet, units: hif}
      wsi: {kind: bag, folder: wsi, layout: trident, extractor: resnet34-layer3, mpp: 0.5}
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyclinic.description import read_description
from polyclinic.errors import SiteError
from polyclinic.study import Kind, Name

SETTINGS_FILE = "polyclinic.yaml"
# What a study calls a file of weights: never a path.
WeightsName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

LAYOUTS: dict[Kind, tuple[str, ...]] = {
    "vector": ("",),
    "image": ("",),
    "bag": ("", "clam", "trident", "stamp"),
    "volume": ("", "nnunet", "bids", "dicom"),
    "series": ("", "omop"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where one modality of a cohort lies at this site.

    Attributes:
        table: CSV or parquet, one row per patient (``vector``) or patient and time (``series``).
        folder: folder of files (kinds ``bag``, ``image``, ``volume``); of a ``vector`` without
            table, DICOM files whose headers are read.
        layout: how a folder of a ``bag`` or ``volume``, or the table of a ``series``, is laid out;
            "" is the plain one.
        slides: CSV that says which slide is whose; default ``slides.csv`` in the folder or root.
        files: CSV that says which file is whose (``image``, ``volume``, DICOM headers; columns: the
            patient column, ``file`` and for a volume ``sequence``), or a MONAI datalist JSON;
            default ``files.csv`` in the folder or root; without one files are named for patients.
        sequences: by the study's name of a sequence, the site's own (``{t1ce: T1POST}``).
        field_units: by column of the table, the unit its numbers are in.
        burned_in: what happens to a film whose header says that text is burned into its pixels.
        evaluation_only: readable for scoring on test patients, never trained on nor announced;
            for studies in which a site plays at lacking a modality.
    """

    kind: Kind
    table: str = ""
    folder: str = ""
    layout: Literal["", "clam", "trident", "stamp", "nnunet", "bids", "dicom", "omop"] = ""
    slides: str = ""
    files: str = ""
    sequences: dict[str, str] = Field(default_factory=dict)
    field_units: dict[str, str] = Field(default_factory=dict)
    burned_in: Literal["refuse", "accept"] = "refuse"
    units: str = ""
    extractor: str = ""
    mpp: float = Field(default=0.0, ge=0.0)
    evaluation_only: bool = False

    @model_validator(mode="after")
    def _place(self) -> "Source":
        if self.kind == "series" and not self.table:
            raise ValueError("a series needs table, a CSV or parquet file")
        if self.kind == "vector" and bool(self.table) == bool(self.folder):
            raise ValueError(
                "a vector needs table, a CSV or parquet file, or a folder of DICOM files"
            )
        layouts = LAYOUTS[self.kind]
        if self.layout not in layouts:
            raise ValueError(f"layout of a {self.kind} is {' or '.join(layouts) or 'left out'}")
        if self.kind in ("bag", "image", "volume") and not self.folder:
            raise ValueError(f"a {self.kind} needs folder")
        return self


class MaskSource(_Strict):
    """Where the masks of a segmentation lie: volumes named or listed like another sequence.

    Attributes:
        folder, layout, files: as of a ``volume``.
        name: what stands for the mask where a sequence's name would (``patient_seg.nii.gz``).
    """

    folder: str
    layout: Literal["", "nnunet", "bids"] = ""
    files: str = ""
    name: str = Field(default="seg", min_length=1, max_length=64)


class CohortSource(_Strict):
    """One cohort as it lies at this site; paths are relative to ``root``, root to the yaml file.

    Attributes:
        record_column: column of the manifest and of every table that names one record (film,
            visit) of a patient, where the unit of prediction is the record; patients are then
            split whole, and groups are counted in patients. "" when a patient is one record.
        mask: of a study that segments, where the masks lie.
        anchor: this site holds every modality of the study and offers to be its anchor site: it
            does the server's training step between rounds, and no other (FedMEPD).
    """

    root: str = "."
    manifest: str = "manifest.csv"
    patient_column: str = "patient_id"
    record_column: str = ""
    modalities: dict[Name, Source] = Field(min_length=1)
    mask: MaskSource | None = None
    anchor: bool = False

    @model_validator(mode="after")
    def _own_column(self) -> "CohortSource":
        if self.record_column == self.patient_column:
            raise ValueError("record_column is another column than patient_column, or left out")
        return self

    @property
    def held(self) -> tuple[str, ...]:
        """Modalities this site trains on and announces, sorted."""
        return tuple(sorted(m for m, s in self.modalities.items() if not s.evaluation_only))


class SiteSettings(_Strict):
    """Everything a site decides for itself.

    Attributes:
        storage: folder for personal heads, ledgers and quarantine lists.
        cache: folder for decoded images and volumes, pixels without identities; default
            ``<storage>/cache``. It may be deleted at any time.
        device: where the training process computes: ``cpu``, ``cuda`` or ``cuda:1``.
        threads: torch threads of the training process; 1 makes runs on a CPU bit-reproducible.
        minimum_cell: counts and prototypes of fewer patients than this stay at the site.
        max_loss_fraction: largest share of patients that may be set aside before a job is refused.
        minimum_sites: fewest sites, this one included, that a job must have for this site to train.
        max_train_seconds: longest one task may take in the training process.
        weights: by the name a study gives them, files of weights that an encoder starts from; a
            site needs them only for encoders that it does not share.
    """

    site: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    storage: str = "state"
    cache: str = ""
    device: str = "cpu"
    threads: int = Field(default=1, ge=1)
    minimum_cell: int = Field(default=11, ge=1)
    max_loss_fraction: float = Field(default=0.01, ge=0.0, le=1.0)
    minimum_sites: int = Field(default=2, ge=1)
    max_train_seconds: int = Field(default=3600, ge=1)
    weights: dict[WeightsName, str] = Field(default_factory=dict)
    cohorts: dict[Name, CohortSource] = Field(default_factory=dict)

    def cohort(self, name: str) -> CohortSource:
        """The cohort a study asks for.

        Raises:
            SiteError: when this site has no such cohort.
        """
        if name not in self.cohorts:
            raise SiteError(
                expected=f"a cohort named '{name}' in polyclinic.yaml",
                got=f"{len(self.cohorts)} other cohort(s)",
                remedy="declare it under 'cohorts', or leave this study",
                owner="data manager",
            )
        return self.cohorts[name]


def load_settings(path: Path) -> SiteSettings:
    """Read a site's ``polyclinic.yaml``; relative roots and storage become absolute.

    Raises:
        SiteError: unreadable, not YAML, or a field is wrong.
    """
    settings = read_description(path, SiteSettings, what="polyclinic.yaml", owner="site IT")
    base = path.resolve().parent
    cohorts = {
        n: c.model_copy(update={"root": str((base / c.root).resolve())})
        for n, c in settings.cohorts.items()
    }
    storage = (base / settings.storage).resolve()
    cache = (base / settings.cache).resolve() if settings.cache else storage / "cache"
    weights = {n: str((base / w).resolve()) for n, w in settings.weights.items()}
    update = {
        "storage": str(storage),
        "cache": str(cache),
        "cohorts": cohorts,
        "weights": weights,
    }
    return settings.model_copy(update=update)


class _ServerWeights(_Strict):
    """What a server says in ``local/weights.yaml``."""

    weights: dict[WeightsName, str] = Field(default_factory=dict)


def server_weights(local: Path) -> dict[str, str]:
    """Files of weights by the name a study gives them, at a server; {} where it has none.

    ``local/weights.yaml`` holds ``weights: {densenet121-imagenet: weights/densenet121.pth}``,
    relative to itself.

    Raises:
        SiteError: the file is there and cannot be read.
    """
    path = local / "weights.yaml"
    if not path.exists():
        return {}
    found = read_description(path, _ServerWeights, what="weights.yaml", owner="site IT")
    return {n: str((local.resolve() / w).resolve()) for n, w in found.weights.items()}


class _ServerAnchor(_Strict):
    """What a server says in ``local/anchor.yaml``."""

    anchor: str = Field(min_length=1, max_length=128)


def server_anchor(local: Path) -> str:
    """The one site that may be the anchor site, at a server; "" where it does not say.

    Raises:
        SiteError: ``local/anchor.yaml`` is there and cannot be read.
    """
    path = local / "anchor.yaml"
    if not path.exists():
        return ""
    return read_description(path, _ServerAnchor, what="anchor.yaml", owner="site IT").anchor
