"""A number is converted from the unit its column is declared in, or the modality is refused."""

import numpy as np
import pandas as pd
import pytest

from polyclinic.data.units import Conversion, conversion
from polyclinic.errors import DataError, StudyError
from polyclinic.study import FieldRule

CREATININE = {"units": "mg/dL", "factors": {"µmol/L": 0.0113}, "low": 0, "high": 30}


def rule(**fields: object) -> FieldRule:
    return FieldRule.model_validate(fields)


def test_the_same_unit_is_not_converted_however_it_is_spelled() -> None:
    assert conversion(rule(units="µmol/L"), "μmol / L") == Conversion(1.0, 0.0)  # two letters mu
    assert conversion(rule(units="mg/dL"), "mg/dL") == Conversion(1.0, 0.0)


def test_another_unit_is_converted_by_its_factor_and_offset() -> None:
    fahrenheit = rule(units="°C", factors={"°F": 5 / 9}, offsets={"°F": -160 / 9})
    found = conversion(fahrenheit, "°F")
    assert found is not None
    assert found.convert(212.0) == pytest.approx(100.0)


def test_an_unknown_unit_has_no_conversion() -> None:
    assert conversion(rule(**CREATININE), "mmol/L") is None
    assert conversion(rule(**CREATININE), "mg/dl") is None  # letters of units differ in meaning


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_is_converted_by_what_the_site_declares(hospital, suffix: str) -> None:
    ids = hospital.patients(8)
    hospital.vector(
        "v",
        {p: (100 + i,) for i, p in enumerate(ids)},
        columns=("krea",),
        panel=("creatinine",),
        field_units={"krea": "µmol/L"},
    )
    frame = pd.read_csv(hospital.root / "v.csv")
    frame.to_parquet(hospital.root / "v.parquet")
    hospital.modalities["v"]["table"] = f"v.{suffix}"
    hospital.study_modalities["v"]["fields"] = {"creatinine": {"column": "krea", **CREATININE}}
    reading = hospital.open().records.readings["v"]
    expected = 0.0113 * np.arange(100, 108)
    np.testing.assert_allclose(reading.column.values[:, 0].numpy(), expected, rtol=1e-6)
    assert reading.facts[0].unit == "mg/dL (from µmol/L)"


@pytest.mark.parametrize(("declared", "told"), [({}, "none declared"), ({"a": "g/L"}, "'g/L'")])
def test_an_undeclared_or_unknown_unit_refuses_the_modality_and_names_both(
    hospital, declared: dict[str, str], told: str
) -> None:
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1, 2, 3)), field_units=declared)
    hospital.study_modalities["v"]["fields"] = {"a": CREATININE}
    with pytest.raises(DataError, match="mg/dL") as refusal:
        hospital.open()
    assert told in str(refusal.value)
    assert "field_units" in str(refusal.value)


def test_a_unit_that_nothing_compares_is_told(hospital) -> None:
    units = {"b": "mmol/L", "typo": "kg"}
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1, 2, 3)), field_units=units)
    (note,) = hospital.open().records.readings["v"].notes
    assert note.endswith("no unit: b, typo")


@pytest.mark.parametrize(
    "fields",
    [
        {"reads": "age", "units": "years"},
        {"factors": {"g": 1000}},
        {"units": "mg", "factors": {"g": 1000}, "offsets": {"kg": 1}},
        {"units": "mg", "factors": {"g": 0}},
    ],
)
def test_a_rule_that_could_not_work_is_refused(hospital, fields: dict[str, object]) -> None:
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1, 2, 3)))
    hospital.study_modalities["v"]["fields"] = {"a": fields}
    with pytest.raises(StudyError, match="fields"):
        hospital.study()
