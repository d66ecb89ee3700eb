"""What lies where in the public cohorts, and what a modality plan may say."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from polyclinic.study import Name


@dataclass(frozen=True)
class Table:
    """Where one modality lies in a download: files of the same columns, one row per patient."""

    files: tuple[str, ...]
    units: str
    missing: int | None = None  # the integer that stands for "not measured"


@dataclass(frozen=True)
class Layout:
    """One cohort: whose rows, what is predicted, which tables.

    Attributes:
        labels: source value to class, the positive class last.
        complete: keep only patients who have every table (a plan then decides what is lacking).
        hospitals: table with the hospital of patients that ``patients.csv`` does not list.
    """

    column: str
    label: str
    labels: dict[str, str]
    tables: dict[str, Table]
    complete: bool
    hospitals: str = ""


LAYOUTS = {
    "tcga_brca": Layout(
        column="oncotree_code",
        label="histology",
        labels={"IDC": "IDC", "ILC": "ILC"},  # lobular is the rarer and the positive class
        tables={
            "cnv": Table(("brca_cnv.parquet",), "gistic", missing=-128),
            "he": Table(("brca_hif.parquet",), "hif"),  # -128 is a true value of an Euler number
            "mut": Table(("brca_mut.parquet",), "mutated", missing=-128),
            "rna": Table(("brca_rnaseq.parquet",), "zscore-within-brca"),
        },
        complete=True,
    ),
    # No RNA z-scores: they were computed inside each cohort and would give the label away.
    "tcga_lung": Layout(
        column="cohort",
        label="subtype",
        labels={"luad": "LUAD", "lusc": "LUSC"},
        tables={
            "cnv": Table(("cnv_10mb_bins.csv.gz",), "log2-ratio-10mb"),
            "ddr": Table(("luad_ddr.parquet", "lusc_ddr.parquet"), "ddr"),
            "he": Table(("luad_hif.parquet", "lusc_hif.parquet"), "hif"),
            "immune": Table(("luad_immune.parquet", "lusc_immune.parquet"), "immune-score"),
        },
        complete=False,
        hospitals="clinical.csv",
    ),
}


class SitePlan(BaseModel):
    """Which patients a site has, and which modalities it holds of them."""

    model_config = ConfigDict(extra="forbid")
    regions: list[str] = []
    hospitals: list[str] = []
    modalities: list[Name] = Field(min_length=1)


class Plan(BaseModel):
    """A modality plan: sites in order; a hospital named by a site wins over its region."""

    model_config = ConfigDict(extra="forbid")
    about: str = ""
    sites: dict[str, SitePlan] = Field(min_length=1)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Everything that some site holds, sorted."""
        return tuple(sorted({m for site in self.sites.values() for m in site.modalities}))
