"""What is told of each feature of a panel."""

from polyclinic.data.check import check_cohort
from polyclinic.data.column import FieldFact
from polyclinic.data.describe import describe_cohort
from polyclinic.data.field_summary import SHOWN_FIELDS, field_summary, sentence

FACTS = (
    FieldFact("age", 100, set_aside=12),
    FieldFact("crp", 40, set_aside=2, unit="mg/L (from mg/dL)"),
    FieldFact("ldh", 95),
)


def test_presence_unit_and_what_was_set_aside_are_told_by_feature() -> None:
    told = field_summary(FACTS, 100, 11)
    assert told["age"] == {"present": 1.0, "set_aside": 12}
    assert told["crp"] == {"present": 0.4, "unit": "mg/L (from mg/dL)", "set_aside": "<11"}
    assert told["ldh"] == {"present": "hidden"}  # the 5 without it are a small group
    assert sentence(told) == "age 100.0%; crp 40.0% mg/L (from mg/dL); ldh hidden"


def test_few_patients_and_long_panels_are_not_told_by_feature() -> None:
    assert field_summary(FACTS, 10, 11) == {}
    assert field_summary([FieldFact(f"g{i}", 50) for i in range(SHOWN_FIELDS + 1)], 50, 11) == {}


def test_check_and_describe_tell_fields_of_a_vector(hospital) -> None:
    ids = hospital.patients(40)
    cells = {p: ("999" if i < 2 else 40 + i, "" if i % 2 else 1, i) for i, p in enumerate(ids)}
    hospital.vector("v", cells, field_units={"a": "mg/dL"})
    rule = {"units": "mg/L", "factors": {"mg/dL": 10}, "high": 5000}
    hospital.study_modalities["v"]["fields"] = {"a": rule}
    report = check_cohort(hospital.settings(), hospital.study())
    messages = {f.check: f.message for f in report.findings if f.modality == "v"}
    assert messages["fields"] == "present: a hidden mg/L (from mg/dL); b 50.0%; c 100.0%"
    assert messages["values"] == "set aside: 2 of a"
    described = describe_cohort(hospital.open())["modalities"]["v"]["fields"]
    assert described["a"] == {"present": "hidden", "unit": "mg/L (from mg/dL)", "set_aside": "<11"}
    assert described["b"] == {"present": 0.5}
