"""Laboratory values, ages and sexes of real films, read through a site folder with rules."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import Cohort, open_cohort
from polyclinic.data.series import SeriesColumn
from polyclinic.data.vector import VectorColumn
from polyclinic.errors import DataError
from polyclinic.settings import SiteSettings
from polyclinic.study import Study, parse_study

pytestmark = pytest.mark.data

LABS = {
    "lab_crp": {"low": 0, "high": 1000, "units": "mg/L"},
    "lab_d_dimer": {"low": 0, "high": 200, "units": "mg/L"},
    "lab_factor_xii": {"low": 0, "high": 300, "units": "%"},
    "lab_ldh": {"low": 0, "high": 20000, "units": "U/L"},
    "lab_lymphocytes": {"low": 0, "high": 500, "units": "10^9/L"},
    "lab_neutrophils": {"low": 0, "high": 500, "units": "10^9/L"},
    "lab_pco2": {"low": 0, "high": 250, "units": "mmHg"},
    "lab_po2": {"low": 0, "high": 800, "units": "mmHg"},
}
SEX = {"column": "sex", "reads": "category", "category": "F", "among": ["F", "M"]}
META = {"age": {"reads": "age"}, "is_female": SEX}


def site(shared_data: Path, root: Path, node: str) -> tuple[SiteSettings, Study, pd.DataFrame]:
    """A site with the films of one node, and a study of its metadata; one record is a film."""
    whole = pd.read_csv(shared_data / "cxr" / "metadata.csv", dtype=str)
    whole.to_csv(root / "metadata.csv", index=False)
    own = whole[whole["node"] == node].sort_values(["patient", "image"])
    own[["patient", "image", "view"]].to_csv(root / "manifest.csv", index=False)
    units = {c: str(r["units"]) for c, r in LABS.items()}
    table = {"kind": "vector", "table": "metadata.csv"}
    payload = {
        "site": node,
        "storage": str(root / "state"),
        "max_loss_fraction": 0.0,
        "cohorts": {
            "cxr": {
                "root": str(root),
                "patient_column": "patient",
                "record_column": "image",
                "modalities": {"labs": table | {"field_units": units}, "meta": table},
            }
        },
    }
    study = {
        "name": "cxr",
        "task": {"label": "view", "classes": ["PA", "AP"]},
        "modalities": {
            "labs": {"kind": "vector", "features": list(LABS), "fields": LABS},
            "meta": {"kind": "vector", "features": list(META), "fields": META},
        },
    }
    return SiteSettings.model_validate(payload), parse_study(study), own


def vector(cohort: Cohort, name: str) -> VectorColumn:
    column = cohort.records.readings[name].column
    assert isinstance(column, VectorColumn)
    return column


def test_hannover_has_laboratory_values_and_no_age(shared_data: Path, tmp_path: Path) -> None:
    settings, study, own = site(shared_data, tmp_path, "hannover")
    cohort = open_cohort(settings, study)
    numbers = own[list(LABS)].astype("float64").to_numpy()
    there = np.isfinite(numbers)  # -inf: below a limit that the hospital does not tell
    labs = vector(cohort, "labs")
    np.testing.assert_array_equal(labs.fields.numpy(), there)
    np.testing.assert_array_equal(
        labs.values.numpy(), np.where(there, numbers, 0).astype("float32")
    )
    share = there.mean(axis=0)
    assert 0.29 < share.min() < share.max() < 0.74
    reading = cohort.records.readings["labs"]
    assert reading.absent["infinite"] == 12
    assert not reading.entries  # nothing here is impossible
    meta = vector(cohort, "meta")
    assert not meta.fields[:, 0].any()
    assert meta.fields[:, 1].all()
    assert meta.values[:, 1].tolist() == (own["sex"] == "F").astype(float).tolist()


def test_nih_has_ages_and_sexes_and_no_laboratory_values(shared_data: Path, tmp_path: Path) -> None:
    settings, study, own = site(shared_data, tmp_path, "nih")
    with pytest.raises(DataError, match="carry modality 'labs', got none"):
        open_cohort(settings, study)
    cohort_source = settings.cohorts["cxr"]
    held = {"meta": cohort_source.modalities["meta"]}
    own_source = cohort_source.model_copy(update={"modalities": held})
    settings = settings.model_copy(update={"cohorts": {"cxr": own_source}})
    meta = vector(open_cohort(settings, study), "meta")
    assert meta.fields.all()
    np.testing.assert_allclose(meta.values[:, 0].numpy(), own["age"].astype("float32"))
    report = check_cohort(settings, study)
    assert report.ok
    told = " ".join(f.message for f in report.findings)
    assert "age 100.0%; is_female 100.0%" in told


def test_films_over_days_are_a_series(shared_data: Path, tmp_path: Path) -> None:
    """Hannover's laboratory values by day of the film, one patient a row of seven days."""
    settings, study, own = site(shared_data, tmp_path, "hannover")
    days = own.assign(hour=own["offset_days"].astype(float) * 24)
    days.to_csv(tmp_path / "days.csv", index=False)
    first = own.drop_duplicates("patient")
    first.to_csv(tmp_path / "manifest.csv", index=False)
    source = settings.cohort("cxr").modalities["labs"]
    changed = source.model_copy(update={"kind": "series", "table": "days.csv"})
    cohorts = {
        "cxr": settings.cohort("cxr").model_copy(
            update={"record_column": "", "modalities": {"labs": changed}}
        )
    }
    settings = settings.model_copy(update={"cohorts": cohorts, "max_loss_fraction": 1.0})
    labs = {
        "kind": "series",
        "features": list(LABS),
        "fields": LABS,
        "recipe": {"hours": 168, "step_hours": 24},
    }
    payload = {"name": "cxr", "task": study.task.model_dump(), "modalities": {"labs": labs}}
    column = open_cohort(settings, parse_study(payload)).records.readings["labs"].column
    assert isinstance(column, SeriesColumn)
    inside = days[(days["hour"] >= 0) & (days["hour"] < 168)]
    finite = inside[[*LABS]].astype("float64").replace([np.inf, -np.inf], np.nan)
    keys = [inside["patient"], inside["hour"] // 24]
    expected = int(finite.groupby(keys).last().notna().to_numpy().sum())
    assert len(column.values) == expected
    assert column.collate(torch.arange(3))[0].shape == (3, 7, 8)
