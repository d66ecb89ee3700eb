"""A download of TCGA as tables: patients with label, hospital and region; modalities by patient."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from layouts import Layout, Table
from polyclinic.errors import DataError

PLANS = Path(__file__).parent / "plans"
EXCLUDED_COLUMNS = frozenset({"cohort", "tss"})


def file_in(source: Path, name: str) -> Path:
    """A file of the download.

    Raises:
        DataError: it is not there.
    """
    if not (source / name).is_file():
        raise DataError(
            expected=f"{name} in the source folder",
            got="no such file",
            remedy="docs/quickstart.md says where it is from",
        )
    return source / name


def read_table(source: Path, table: Table) -> pd.DataFrame:
    """One modality, rows by patient, float32, NaN where not measured."""
    parts = []
    for name in table.files:
        path = file_in(source, name)
        part = pd.read_csv(path) if ".csv" in name else pd.read_parquet(path).reset_index()
        parts.append(part.set_index("patient"))
    frame = pd.concat(parts)
    if frame.index.has_duplicates:
        raise DataError(
            expected="one row per patient",
            got=f"{int(frame.index.duplicated().sum())} repeated in {table.files[0]}",
            remedy="merge them first",
        )
    frame = frame[[c for c in frame.columns if c not in EXCLUDED_COLUMNS]].astype(np.float32)
    return frame if table.missing is None else frame.mask(frame == table.missing)


def informative(frame: pd.DataFrame) -> list[str]:
    """Columns with two different values at least, in file order; labels are never looked at."""
    return [str(c) for c in frame.columns[frame.nunique(dropna=True) > 1]]


def read_patients(source: Path, layout: Layout) -> pd.DataFrame:
    """Label, hospital and region of every patient with one of the classes."""
    listed = pd.read_csv(file_in(source, "patients.csv"), low_memory=False).set_index("patient")
    columns = {layout.column: layout.label, "hospital": "hospital", "region": "region"}
    people = listed[list(columns)].rename(columns=columns)
    if layout.hospitals:
        extra = pd.read_csv(file_in(source, layout.hospitals), low_memory=False).set_index(
            "patient"
        )
        more = pd.DataFrame(
            {
                layout.label: extra["cohort"].str.lower(),
                "hospital": extra["name.tissue_source_site"],
                "region": None,
            }
        )
        people = pd.concat([people, more[~more.index.isin(people.index)]])
    people["region"] = people["region"].fillna(people["hospital"].map(_regions(listed)))
    people[layout.label] = people[layout.label].map(layout.labels)
    return people[people[layout.label].notna()].sort_index()


def _regions(listed: pd.DataFrame) -> dict[str, str]:
    """Region of a hospital: where another of its patients has one, else our table of places."""
    places: dict[str, str] = json.loads((PLANS / "hospital_regions.json").read_text("utf-8"))
    known = listed.dropna(subset=["region"]).groupby("hospital")["region"].first()
    return {**places, **{str(k): str(v) for k, v in known.items()}}
