"""docs/prepare-tables.md says what is so."""

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from polyclinic import models
from polyclinic.data.cell import OLDEST, SET_ASIDE, read_cell
from polyclinic.data.check import check_cohort
from polyclinic.data.clock import HOUR, TIMES
from polyclinic.data.cohort import open_cohort
from polyclinic.data.field import MANY
from polyclinic.data.parquet_stream import MAX_STREAM_ROWS
from polyclinic.data.series_layout import NAMES, UNITS, VALUES
from polyclinic.data.text_stream import MAX_STREAM_BYTES
from polyclinic.data.timeline import SeriesRecipe
from polyclinic.data.units import Conversion
from polyclinic.importing.plan import ImportPlan
from polyclinic.settings import SiteSettings
from polyclinic.study import FieldRule, Study, parse_study

PAGE = (Path(__file__).parents[2] / "docs" / "prepare-tables.md").read_text(encoding="utf-8")
IDS = [f"p{i:02d}" for i in range(16)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def study() -> Study:
    return parse_study(
        {
            "name": "icu",
            "task": {"label": "outcome", "classes": ["no", "yes"]},
            "modalities": json.loads(blocks("json")[0]),
            "split": {"test": 0.25},
        }
    )


def test_the_import_example_is_valid() -> None:
    plan = ImportPlan.model_validate(yaml.safe_load(blocks("yaml")[0]))
    assert {r.kind for r in plan.modalities.values()} == {"vector", "series"}


def test_every_modality_of_the_study_example_has_an_encoder() -> None:
    for name, modality in study().modalities.items():
        with torch.device("meta"):
            models.build(name, modality, 16)


def _write(root: Path) -> None:
    """Tables and films as the page describes them."""
    rows = [f"{p},{'no' if i % 2 else 'yes'},2026-01-01T08:00" for i, p in enumerate(IDS)]
    (root / "manifest.csv").write_text("\n".join(["patient_id,outcome,admitted", *rows]))
    cells = [f"{p},0{30 + i}Y,{'FM'[i % 2]},{80 + i}" for i, p in enumerate(IDS)]
    (root / "labs.csv").write_text("\n".join(["patient_id,age,sex,krea", *cells]))
    steps = [f"{p},{h},{70 + h},{98 + i / 10}" for i, p in enumerate(IDS) for h in (0, 1, 30)]
    (root / "vitals.csv").write_text("\n".join(["patient_id,hour,hr,temp", *steps]))
    long = pd.DataFrame(
        [
            (p, f"2026-01-01T{9 + h:02d}:00", concept, value + i / 10, unit)
            for i, p in enumerate(IDS)
            for h in range(3)
            for concept, value, unit in ((3027018, 80, "/min"), (3020891, 37, "°C"))
        ],
        columns=[
            "person_id",
            "measurement_datetime",
            "measurement_concept_id",
            "value_as_number",
            "unit_source_value",
        ],
    )
    long.to_parquet(root / "measurement.parquet")
    (root / "films").mkdir()
    for i, p in enumerate(IDS):
        film = Dataset()
        film.file_meta = FileMetaDataset()
        film.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        film.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.PatientAge, film.ViewPosition = f"0{30 + i}Y", ("AP", "PA")[i % 2]
        film.save_as(root / "films" / f"{p}.dcm", enforce_file_format=True)


def test_who_follows_the_examples_gets_a_green_check(tmp_path: Path) -> None:
    _write(tmp_path)
    site = yaml.safe_load(blocks("yaml")[1])
    site["storage"] = str(tmp_path / "state")
    site["cohorts"]["icu"]["root"] = str(tmp_path)
    settings = SiteSettings.model_validate(site)
    report = check_cohort(settings, study())
    assert [f for f in report.findings if f.level != "ok"] == []
    readings = open_cohort(settings, study()).records.readings
    labs = readings["labs"].column.values
    assert labs[0].tolist() == pytest.approx([30, 1, 80 * 0.01131])
    vitals = readings["vitals"].column.collate(torch.tensor([0]))[0]
    assert vitals[0, 30].tolist() == pytest.approx([100, (98 - 32) / 1.8], rel=1e-6)
    measured = readings["measured"].column.collate(torch.tensor([1]))[0]
    assert measured[0, 1].tolist() == pytest.approx([80.1, 37.1])
    assert readings["meta"].column.values[1].tolist() == [31, 1]


@pytest.mark.parametrize(
    ("cell", "as_number", "as_age"),
    [
        ("45.0", 45, 45),
        ("018M", "text", 1.5),
        ("90+", "text", 90),
        (">89", 89, 90),
        ("95", 95, 90),
        ("<0.5", 0.5, "text"),
        ("[3,5]", 4, "text"),
        ("-inf", "infinite", "infinite"),
        ("forty", "text", "text"),
        ("3-5", "text", "text"),
    ],
)
def test_the_table_of_cells_is_true(cell: str, as_number: object, as_age: object) -> None:
    assert f"`{cell}`" in PAGE or cell == "95"
    for reads, expected in (("number", as_number), ("age", as_age)):
        rule = FieldRule.model_validate({"reads": reads})
        value, cause = read_cell(cell, rule, Conversion())
        if isinstance(expected, str):
            assert math.isnan(value)
            assert cause == expected
        else:
            assert value == expected


def test_every_setting_column_and_limit_is_told() -> None:
    names = {*SeriesRecipe.model_fields, *FieldRule.model_fields, *SET_ASIDE}
    names |= {*NAMES, *VALUES, *UNITS, *TIMES, HOUR}
    assert {n for n in names if f"`{n}`" not in PAGE and f'"{n}"' not in PAGE} == set()
    assert f"{MAX_STREAM_BYTES >> 30} GiB" in PAGE
    assert f"{MAX_STREAM_ROWS // 1_000_000} million rows" in PAGE
    assert f"over {OLDEST:g}" in PAGE
    assert f"at least {MANY}" in PAGE
