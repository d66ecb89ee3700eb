"""Site folders of scans with masks: what a plan says, and the files that all of them have.

``SITE/scans/PATIENT/PATIENT_<sequence>.nii.gz`` and ``..._seg.nii.gz``, a manifest of ids (the
study draws the split) and ``polyclinic.yaml``. A sequence that a site lacks by plan is there too,
marked ``evaluation_only``.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyclinic.errors import DataError
from polyclinic.settings import load_settings
from polyclinic.study import Name, Study, load_study

SCANS, MASK = "scans", "seg"
JOBS = Path(__file__).resolve().parents[1] / "jobs"
SITE_HEADER = """\
# {site}: written by poc/cohorts.py from public scans, see the download for their licences.
# minimum_cell is 1 because these patients are published one by one; a hospital keeps the default.
"""


class ScanSite(BaseModel):
    """Whose patients a site has, and which sequences it holds of them.

    Attributes:
        hospital: whose patients; of a cohort without hospitals "".
        complete: take so many of the hospital's patients who have every sequence, drawn by the
            plan's seed; a site without takes the hospital's others.
        patients: how many the publication says the site has.
    """

    model_config = ConfigDict(extra="forbid")
    hospital: str = ""
    modalities: list[Name] = Field(min_length=1)
    anchor: bool = False
    complete: int = Field(default=0, ge=0)
    patients: int = Field(default=0, ge=0)


class ScanPlan(BaseModel):
    """A study, itself or that of a job in ``jobs``, and the sites that take part.

    Attributes:
        seed: of who goes where.
    """

    model_config = ConfigDict(extra="forbid")
    about: str = ""
    seed: int = 0
    job: str = Field(default="", pattern=r"^[a-z0-9_]*$")
    study: dict[str, Any] = {}
    sites: dict[str, ScanSite] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_study(self) -> "ScanPlan":
        if bool(self.job) == bool(self.study):
            raise ValueError("a plan has a study, or names the job whose study it is")
        return self

    def text(self) -> str:
        """The content of ``study.json``."""
        if self.study:
            return json.dumps(self.study, indent=2) + "\n"
        return (JOBS / self.job / "app" / "config" / "study.json").read_text(encoding="utf-8")


def drawn(ids: Iterable[str], seed: int, what: str) -> list[str]:
    """The ids in an order that depends on the seed and on ``what`` is drawn, not on their order."""
    order = sorted(ids)
    digest = hashlib.sha256(f"scans/{seed}/{what}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    return [order[i] for i in draw.permutation(len(order))]


def write_study(plan: ScanPlan, out: Path) -> Study:
    """``study.json``, read back to make sure that it is valid.

    Raises:
        DataError: a site of the plan holds a modality that the study has not.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.json").write_text(plan.text(), encoding="utf-8")
    study = load_study(out)
    strange = {m for site in plan.sites.values() for m in site.modalities} - set(study.modalities)
    if strange:
        raise DataError(
            expected=f"modalities of the plan's study: {sorted(study.modalities)}",
            got=f"{sorted(strange)}",
            remedy="correct the plan",
        )
    return study


def file_of(folder: Path, patient: str, what: str, suffix: str = ".nii.gz") -> Path:
    """Where a sequence or mask of a patient is to lie in a site's folder, its folder made."""
    place = folder / SCANS / patient
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{patient}_{what}{suffix}"


def write_site(study: Study, name: str, site: ScanSite, ids: Iterable[str], folder: Path) -> None:
    """Manifest and settings of a site, read back to make sure that they are valid."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.csv").write_text("\n".join(["patient_id", *sorted(ids)]) + "\n")
    sources: dict[str, dict[str, Any]] = {}
    for m in study.modalities:
        sources[m] = {"kind": "volume", "folder": SCANS}
        if m not in site.modalities:
            sources[m]["evaluation_only"] = True
    cohort: dict[str, Any] = {"modalities": sources, "mask": {"folder": SCANS, "name": MASK}}
    if site.anchor:
        cohort["anchor"] = True
    settings = {"site": name, "minimum_cell": 1, "cohorts": {study.name: cohort}}
    text = SITE_HEADER.format(site=name) + yaml.safe_dump(settings, sort_keys=False)
    (folder / "polyclinic.yaml").write_text(text, encoding="utf-8")
    load_settings(folder / "polyclinic.yaml")
