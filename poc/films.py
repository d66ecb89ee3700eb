"""The public chest films of the NIH Clinical Center and Hannover as site folders, by a plan.

A film is a record: a manifest row has the film's id and its patient's, and every table and the
list of files has the film's. ``age`` and laboratory cells are written as they stand in the
download, limits of detection and all. Of the NIH only patients 1280 to 3970 are taken: outside
that range the number of the patient gives the finding away (README of the download).
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from download import file_in
from polyclinic.errors import DataError
from polyclinic.settings import load_settings
from polyclinic.study import Name, Study, load_study

NIH_IDS = range(1280, 3971)
PATIENT, RECORD = "patient_id", "film_id"
VIEWS = {"PA": "PA", "AP": "AP", "AP SUPINE": "AP"}  # whatever else there is, is left out
JOBS = Path(__file__).resolve().parents[1] / "jobs"
SITE_HEADER = """\
# {site}: written by poc/cohorts.py from public films, see the download for their licences.
# minimum_cell is 1 because these patients are published one by one; a hospital keeps the default.
"""


class FilmSite(BaseModel):
    """Which films a site has: those of a hospital's every ``of``-th patient, from the ``part``-th.

    Attributes:
        modalities: that it holds, of the study's.
    """

    model_config = ConfigDict(extra="forbid")
    node: str
    part: int = Field(default=1, ge=1)
    of: int = Field(default=1, ge=1)
    modalities: list[Name] = Field(min_length=1)


class FilmPlan(BaseModel):
    """A study, itself or that of a job in ``jobs``, and the sites that take part."""

    model_config = ConfigDict(extra="forbid")
    about: str = ""
    job: str = Field(default="", pattern=r"^[a-z0-9_]*$")
    study: dict[str, Any] = {}
    sites: dict[str, FilmSite] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_study(self) -> "FilmPlan":
        if bool(self.job) == bool(self.study):
            raise ValueError("a plan has a study, or names the job whose study it is")
        return self

    def text(self) -> str:
        """The content of ``study.json``."""
        if self.study:
            return json.dumps(self.study, indent=2) + "\n"
        return (JOBS / self.job / "app" / "config" / "study.json").read_text(encoding="utf-8")


def read_films(source: Path) -> pd.DataFrame:
    """One row per usable film, by film: patient, node, file, fields, and everything to predict.

    Raises:
        DataError: a file of the download is not there.
    """
    listed = pd.read_csv(file_in(source, "metadata.csv"), dtype=str, keep_default_na=False)
    films = listed.set_index("image").sort_index()
    films["view"] = films["view"].str.upper().map(VIEWS)
    number = films["patient"].str.removeprefix("nih_").where(films["node"] == "nih", "1280")
    films = films[films["view"].notna() & number.astype(int).isin(NIH_IDS)]
    told = films["finding"].where(films["node"] == "nih", "").str.split("|")
    pneumonia = told.map(lambda found: "Pneumonia" in found)
    healthy = told.map(lambda found: found == ["No Finding"])
    return films.assign(
        file=films.index + ".jpg",
        pneumonia=np.select([pneumonia, healthy], ["1", "0"], ""),
        finding=np.select([pneumonia, healthy], ["pneumonia", "no_finding"], ""),
        view_ap=np.where(films["view"] == "AP", "1", "0"),
    )


def films_of(films: pd.DataFrame, site: FilmSite) -> pd.DataFrame:
    """The films of a site: whole patients, those with pneumonia dealt out evenly among parts."""
    here = films[films["node"] == site.node]
    if here.empty:
        return here
    ill = here.groupby("patient")["pneumonia"].agg(lambda answers: "1" in set(answers))
    digest = hashlib.sha256(f"films/{site.node}/{site.of}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    mine: list[str] = []
    dealt = 0
    for group in (sorted(ill.index[ill]), sorted(ill.index[~ill])):
        order = [group[i] for i in draw.permutation(len(group))]
        mine += [p for i, p in enumerate(order, dealt) if i % site.of == site.part - 1]
        dealt += len(order)
    return here[here["patient"].isin(mine)]


def build_films(source: Path, plan: FilmPlan, out: Path) -> list[list[object]]:
    """Write the study and every site; one row per site: patients, films, answers, modalities.

    Raises:
        DataError: the download lacks a film or a column, or a site has no film with an answer.
    """
    films = read_films(source)
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
    rows: list[list[object]] = []
    for name, site in plan.sites.items():
        mine = films_of(films, site)
        columns = list(study.task.columns)
        mine = mine[(require(mine, columns) != "").any(axis=1)]
        if mine.empty:
            raise DataError(
                expected=f"films with an answer at site '{name}'",
                got="none",
                remedy="correct the plan's node, or the study's task",
            )
        write_site(source, study, name, site, mine, out / name)
        counts = [mine[c][mine[c] != ""].value_counts().sort_index() for c in columns]
        told = "; ".join(
            f"{c} {', '.join(f'{v}: {n}' for v, n in count.items()) or 'unknown'}"
            for c, count in zip(columns, counts, strict=True)
        )
        people = mine["patient"].nunique()
        rows.append([name, people, len(mine), told, "+".join(site.modalities)])
    return rows


def require(films: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Columns of the films.

    Raises:
        DataError: the download has no such column.
    """
    unknown = sorted(set(columns) - set(films.columns))
    if unknown:
        raise DataError(
            expected="columns of the download in the plan's study",
            got=f"{unknown}",
            remedy="correct the study",
        )
    return films[columns]


def write_site(
    source: Path, study: Study, name: str, site: FilmSite, films: pd.DataFrame, folder: Path
) -> None:
    """One site folder that needs nothing outside, read back to make sure that it is valid."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = films[["patient", *study.task.columns]].rename(columns={"patient": PATIENT})
    answers.rename_axis(RECORD).reset_index().to_csv(folder / "manifest.csv", index=False)
    sources: dict[str, dict[str, Any]] = {}
    for m in site.modalities:
        modality = study.modalities[m]
        if modality.kind == "image":
            copy_films(source, films, folder / m)
            sources[m] = {"kind": "image", "folder": m}
        else:
            rules = modality.fields
            columns = [(rules[f].column if f in rules else "") or f for f in modality.features]
            table = require(films, columns).rename_axis(RECORD).reset_index()
            table.to_csv(folder / f"{m}.csv", index=False)
            sources[m] = {"kind": "vector", "table": f"{m}.csv", "units": modality.units}
    cohort = {"patient_column": PATIENT, "record_column": RECORD, "modalities": sources}
    settings = {"site": name, "minimum_cell": 1, "cohorts": {study.name: cohort}}
    text = SITE_HEADER.format(site=name) + yaml.safe_dump(settings, sort_keys=False)
    (folder / "polyclinic.yaml").write_text(text, encoding="utf-8")
    load_settings(folder / "polyclinic.yaml")


def copy_films(source: Path, films: pd.DataFrame, folder: Path) -> None:
    """The films themselves, and the table of whose they are beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in films["file"]:
        shutil.copyfile(file_in(source / "img", name), folder / name)
    films[["file"]].rename_axis(RECORD).reset_index().to_csv(folder / "files.csv", index=False)
