"""Series: from rows of measurements to steps with a mask."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polyclinic.data.check import check_cohort
from polyclinic.data.column import Reading, Request
from polyclinic.data.describe import describe_cohort
from polyclinic.data.series import SeriesColumn, absent, join, read
from polyclinic.errors import DataError, DataRejected, StudyError
from polyclinic.settings import Source
from polyclinic.study import Modality

IDS = ("p1", "p2", "p3")
NAN = float("nan")


def series(root: Path, text: str | bytes, name: str = "v.csv", **changes: object) -> Reading:
    """Read a table of heart rate and temperature over four hours."""
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    source = {k: changes.pop(k) for k in ("layout", "field_units") if k in changes}
    modality = {"features": ("hr", "t"), "recipe": {"hours": 4}} | changes
    return read(
        Request(
            "vitals",
            Modality.model_validate({"kind": "series"} | modality),
            Source.model_validate({"kind": "series", "table": name} | source),
            root,
            "patient_id",
            IDS,
        )
    )


def dense(reading: Reading, row: int = 0) -> list[list[float]]:
    """One patient's features by step, NaN where absent."""
    assert isinstance(reading.column, SeriesColumn)
    values, fields = reading.column.collate(torch.tensor([row]))
    return torch.where(fields, values, NAN)[0].T.tolist()


def same(found: list[list[float]], expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(np.array(found), np.array(expected))


TABLE = "patient_id,hour,hr,t\np1,0.5,80,37\np1,0.9,90,\np1,2,70,36\np2,3.99,60,\n"


def test_measurements_fall_into_the_steps_of_their_hours(tmp_path) -> None:
    reading = series(tmp_path, TABLE)
    same(dense(reading, 0), [[90, NAN, 70, NAN], [37, NAN, 36, NAN]])
    same(dense(reading, 1), [[NAN, NAN, NAN, 60], [NAN] * 4])
    assert reading.column.present.tolist() == [True, True, False]
    assert reading.duplicates == 0


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("last", 90), ("mean", 85), ("max", 90), ("min", 80)]
)
def test_several_measurements_of_a_step_become_one(tmp_path, aggregate: str, expected) -> None:
    reading = series(tmp_path, TABLE, recipe={"hours": 4, "aggregate": aggregate})
    assert dense(reading)[0][0] == expected
    by_feature = series(tmp_path, TABLE, recipe={"hours": 4, "aggregate": {"hr": aggregate}})
    assert dense(by_feature)[0][0] == expected


def test_the_order_of_rows_does_not_matter(tmp_path) -> None:
    header, *rows = (TABLE + "p1,0.9,85,\np1,0.9,95,\n").splitlines()
    whole = series(tmp_path, TABLE + "p1,0.9,85,\np1,0.9,95,\n").column
    for seed in range(5):
        mixed = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        other = series(tmp_path, "\n".join([header, *mixed])).column
        assert torch.equal(whole.values, other.values)
        assert torch.equal(whole.cells, other.cells)


def test_steps_may_be_longer_than_an_hour(tmp_path) -> None:
    reading = series(tmp_path, TABLE, recipe={"hours": 4, "step_hours": 2, "aggregate": "mean"})
    same(dense(reading), [[85, 70], [37, 36]])


def test_times_count_from_the_first_row_of_a_patient(tmp_path) -> None:
    text = (
        "patient_id,time,hr,t\n"
        "p1,2026-03-01 23:30,80,\n"
        "p1,2026-03-02T00:30:00,90,37\n"  # one hour later: the second step
        "p2,2025-01-01T00:00,,\n"  # a row without values is a row
        "p2,2025-01-01T02:00,60,\n"
    )
    reading = series(tmp_path, text)
    same(dense(reading, 0), [[80, 90, NAN, NAN], [NAN, 37, NAN, NAN]])
    same(dense(reading, 1), [[NAN, NAN, 60, NAN], [NAN] * 4])


def test_times_may_count_from_a_column_of_the_table(tmp_path) -> None:
    text = (
        "patient_id,admitted,time,hr\n"
        "p1,2026-03-01T10:00Z,2026-03-01T12:00+01:00,80\n"  # 11:00 UTC
        "p1,,2026-03-01T10:59:59Z,70\n"
        "p2,,2026-03-01T10:00Z,70\n"  # never admitted
    )
    recipe = {"hours": 4, "start": "admitted"}
    reading = series(tmp_path, text, recipe=recipe)
    same(dense(reading, 0), [[70, 80, NAN, NAN], [NAN] * 4])
    assert reading.column.present.tolist() == [True, False, False]
    assert [(e.reason, e.count) for e in reading.entries] == [("no_time", 1)]


def test_times_may_count_from_a_column_of_the_manifest(tmp_path) -> None:
    (tmp_path / "manifest.csv").write_text("patient_id,admitted\np1,2026-03-01T10:00\n")
    text = "patient_id,time,hr\np1,2026-03-01T13:00,80\np1,2026-03-01T09:00,99\n"
    reading = series(tmp_path, text, recipe={"hours": 4, "start": "admitted"})
    same(dense(reading), [[NAN, NAN, NAN, 80], [NAN] * 4])
    assert reading.notes == ("1 measurement(s) lie before or after the study's hours",)


def test_a_start_that_nothing_has_is_refused(tmp_path) -> None:
    (tmp_path / "manifest.csv").write_text("patient_id\np1\n")
    text = "patient_id,time,hr\np1,2026-03-01T13:00,80\n"
    with pytest.raises(DataError, match="'admitted'"):
        series(tmp_path, text, recipe={"hours": 4, "start": "admitted"})


def test_hours_cannot_count_from_the_patient(tmp_path) -> None:
    with pytest.raises(StudyError, match="'start'"):
        series(tmp_path, TABLE, recipe={"hours": 4, "start": "patient_id"})


@pytest.mark.parametrize(
    "text",
    ["patient_id,hour,name,value\np9,1,hr,80\n", "patient_id,hour,name,value\n"],
)
def test_a_long_table_without_rows_of_the_cohort_leaves_all_absent(tmp_path, text: str) -> None:
    reading = series(tmp_path, text, layout="omop")
    assert not reading.column.present.any()
    assert reading.missing_columns == ("hr", "t")


def test_a_long_table_with_other_concepts_only_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="none of its 2"):
        series(tmp_path, "patient_id,hour,name,value\np1,1,lactate,4\n", layout="omop")


def test_days_need_no_time_of_day_and_hours_do(tmp_path) -> None:
    text = "patient_id,time,hr\np1,2026-03-01,80\np1,2026-03-02,90\n"
    reading = series(tmp_path, text, recipe={"hours": 48, "step_hours": 24})
    same(dense(reading), [[80, 90], [NAN, NAN]])
    with pytest.raises(DataError, match="ISO 8601"):
        series(tmp_path, text)


def test_a_row_without_a_time_costs_itself_and_is_listed(tmp_path) -> None:
    rows = "".join(f"p1,{t},1,\n" for t in ("", "noon", "inf", "03/04/2026 10:00"))
    reading = series(tmp_path, TABLE + rows)
    same(dense(reading), [[90, NAN, 70, NAN], [37, NAN, 36, NAN]])
    assert [(e.reason, e.reference) for e in reading.entries] == [
        ("no_time", f"line {line}") for line in (6, 7, 8, 9)
    ]
    assert all(e.partial and e.patient == "p1" for e in reading.entries)


def test_times_with_and_without_a_zone_cannot_be_compared(tmp_path) -> None:
    text = "patient_id,time,hr\np1,2026-03-01T13:00,80\np1,2026-03-01T13:00Z,80\n"
    with pytest.raises(DataError, match="zone"):
        series(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("patient_id,when,hr\np1,1,80\n", "'hour'"),
        ("patient_id,hour,pulse\np1,1,80\n", "none of its 2"),
        ("patient_id,time,hr\np1,1.5,80\n", "ISO 8601"),
    ],
)
def test_a_table_without_time_or_panel_is_refused(tmp_path, text: str, named: str) -> None:
    with pytest.raises(DataError, match=named):
        series(tmp_path, text)


def test_b13_impossible_values_of_a_series_cost_themselves(tmp_path) -> None:
    text = TABLE + "p1,3,999,37\np2,1,<30,38\np3,1,high,\np9,1,999,\n"
    fields = {"hr": {"low": 0, "high": 350}}
    reading = series(tmp_path, text, fields=fields)
    same(dense(reading, 0), [[90, NAN, 70, NAN], [37, NAN, 36, 37]])
    same(dense(reading, 1), [[NAN, 30, NAN, 60], [NAN, 38, NAN, NAN]])
    (entry,) = reading.entries  # the row of p9, who is not in the cohort, is nobody's
    assert (entry.reason, entry.reference, entry.partial) == ("impossible_value", "line 6", True)
    assert reading.absent["text"] == 1
    assert reading.notes == ("1 value(s) at a limit of detection, taken as the limit",)
    assert [(f.rows, f.set_aside) for f in reading.facts] == [(2, 1), (2, 0)]
    assert reading.outside == 1


def test_a_feature_in_another_unit_throughout_is_refused(tmp_path) -> None:
    rows = "".join(f"p1,{i / 4},80,98.6\n" for i in range(12))
    with pytest.raises(DataError, match="'t'"):
        series(tmp_path, "patient_id,hour,hr,t\n" + rows, fields={"t": {"low": 25, "high": 45}})


def test_a_long_list_is_cut_and_still_counted(tmp_path) -> None:
    rows = "".join(f"p1,{i / 1000},80,37\n" for i in range(3000)) + "p1,,1,1\n" * 1500
    reading = series(tmp_path, "patient_id,hour,hr,t\n" + rows)
    assert len(reading.entries) == 1001
    assert sum(e.count for e in reading.entries) == 1500


OMOP = (
    "person_id,measurement_datetime,measurement_concept_id,value_as_number,unit_source_value\n"
    "p1,2026-03-01T10:00,3027018,80,/min\n"
    "p1,2026-03-01T11:00,3020891,98.6,°F\n"
    "p1,2026-03-01T12:00,3020891,37,°C\n"
    "p1,2026-03-01T12:30,3020891,310,K\n"
    "p1,2026-03-01T13:00,3020891,36,\n"
    "p1,2026-03-01T13:00,9999999,5,\n"
    "p1,2026-03-01T13:00,0,5,\n"
    "p2,2026-03-01T13:00,3027018,,/min\n"
)
CONCEPTS = {
    "hr": {"column": "3027018"},
    "t": {
        "column": "3020891",
        "units": "°C",
        "factors": {"°F": 5 / 9},
        "offsets": {"°F": -160 / 9},
    },
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_omop_table_is_one_source_with_units_by_row(tmp_path, suffix: str) -> None:
    (tmp_path / "m.csv").write_text(OMOP)
    frame = pd.read_csv(tmp_path / "m.csv")
    frame.to_parquet(tmp_path / "m.parquet")
    raw = (tmp_path / f"m.{suffix}").read_bytes()
    units = {"3020891": "°C"}
    changes = {"layout": "omop", "fields": CONCEPTS}
    reading = series(tmp_path, raw, f"m.{suffix}", field_units=units, **changes)
    np.testing.assert_allclose(
        dense(reading), [[80, NAN, NAN, NAN], [NAN, 37, 37, 36]], rtol=1e-6, equal_nan=True
    )
    assert [(e.reason, e.reference) for e in reading.entries] == [("unknown_unit", "line 5")]
    # Without a declaration a row without a unit is set aside as well.
    bare = series(tmp_path, raw, f"m.{suffix}", **changes)
    assert [e.reference for e in bare.entries] == ["line 5", "line 6"]
    assert np.isnan(dense(bare)[1][3])


def test_a_plain_long_table_names_its_measurements(tmp_path) -> None:
    text = "patient_id,hour,name,value\np1,1,hr,80\np1,2,t,<30\np1,2,lactate,4\n"
    reading = series(tmp_path, text, layout="omop")
    same(dense(reading), [[NAN, 80, NAN, NAN], [NAN, NAN, 30, NAN]])


def test_a_long_table_without_units_needs_declared_ones(tmp_path) -> None:
    text = "patient_id,hour,name,value\np1,1,t,98.6\n"
    fields = {"t": {"units": "°C", "factors": {"°F": 5 / 9}, "offsets": {"°F": -160 / 9}}}
    with pytest.raises(DataError, match="none declared"):
        series(tmp_path, text, layout="omop", fields=fields)
    reading = series(tmp_path, text, layout="omop", fields=fields, field_units={"t": "°F"})
    assert dense(reading)[1][1] == pytest.approx(37)


def test_a_table_that_is_not_long_is_told_apart(tmp_path) -> None:
    with pytest.raises(DataError, match="layout: omop"):
        series(tmp_path, TABLE, layout="omop")


def test_values_are_standardised_by_feature_over_training_patients(tmp_path) -> None:
    text = "patient_id,hour,hr,t\np1,0,80,37\np1,1,100,37\np2,0,1000,40\n"
    ready = series(tmp_path, text).column.prepared(torch.tensor([0]))
    values, fields = ready.collate(torch.tensor([0, 1]))
    # Patient 1 alone: hr 90 ± 10; t is constant there, so 37 is 0 and its scale 1.
    assert values[0, :2].tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert values[1, 0].tolist() == [91.0, 3.0]
    assert fields.sum() == 6


def test_a_feature_without_training_values_is_absent_for_all(tmp_path) -> None:
    text = "patient_id,hour,hr,t\np1,0,80,\np2,0,90,40\n"
    ready = series(tmp_path, text).column.prepared(torch.tensor([0]))
    assert ready.collate(torch.tensor([1]))[1][0, 0].tolist() == [True, False]


def test_the_study_may_fix_centre_and_spread(tmp_path) -> None:
    ready = series(tmp_path, TABLE, mean=(80, 37), scale=(10, 2)).column.prepared(torch.tensor([]))
    assert ready.collate(torch.tensor([0]))[0][0, 2].tolist() == [-1.0, -0.5]


@pytest.mark.parametrize("seed", range(20))
def test_b17_no_nan_whatever_is_missing_constant_or_huge(tmp_path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 30))
    values = rng.standard_normal(rows) * 10.0 ** rng.integers(-30, 30, rows)
    lines = [f"{rng.choice(IDS)},{rng.uniform(0, 5)},{v},7" for v in values]
    column = series(tmp_path, "\n".join(["patient_id,hour,hr,t", *lines])).column
    train = torch.from_numpy(rng.permutation(3)[: int(rng.integers(0, 4))].copy())
    inputs, fields = column.prepared(train).collate(torch.arange(3))
    assert inputs.isfinite().all()
    assert not inputs[~fields].any()


def test_join_keeps_patients_and_absent_has_none(tmp_path) -> None:
    column = series(tmp_path, TABLE).column
    modality = Modality(kind="series", features=("hr", "t"), recipe={"hours": 4})
    whole = join([absent(2, modality), column])
    assert whole.present.tolist() == [False, False, True, True, False]
    for i in range(3):
        assert torch.equal(
            whole.collate(torch.tensor([2 + i]))[0], column.collate(torch.tensor([i]))[0]
        )


def test_b15_the_same_series_under_two_ids_is_noticed(tmp_path) -> None:
    rows = "".join(f"{p},{i / 2},{i + 0.5},{i + 0.25}\n" for p in ("p1", "p2") for i in range(8))
    reading = series(tmp_path, "patient_id,hour,hr,t\n" + rows)
    assert "1 patient(s) have exactly the values of another" in reading.notes


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ({"hours": 3, "step_hours": 2}, "multiple"),
        ({"hours": 24 * 366, "step_hours": 0.1}, "steps"),
        ({"hours": 0}, "'hours'"),
        ({"aggregate": "median"}, "aggregate"),
        ({"aggregate": {"bp": "last"}}, "features"),
    ],
)
def test_a_recipe_out_of_bounds_is_refused(tmp_path, recipe: dict[str, object], named) -> None:
    with pytest.raises(StudyError, match=named):
        series(tmp_path, TABLE, recipe=recipe)


def test_a_job_cannot_make_a_hospital_allocate_what_it_likes(tmp_path) -> None:
    panel = tuple(f"f{i}" for i in range(2000))
    with pytest.raises(StudyError, match="numbers"):
        series(tmp_path, TABLE, features=panel, recipe={"hours": 1000})


CLEAN = 'patient_id,hour,hr,t\np1,0.5,"80",37.5\np2,3,60,\nü,1,1,1\n'
COMMA = "patient_id;hour;hr;t\np1;0,5;80;37,5\np2;3;60;\nü;1;1;1\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbf" + CLEAN.encode(),
        CLEAN.encode("utf-16"),
        CLEAN.encode("utf-32"),
        b"\xfe\xff" + CLEAN.encode("utf-16-be"),
        CLEAN.encode("latin-1"),
        CLEAN.replace("\n", "\r\n").encode(),
        CLEAN.replace(",", "\t").encode(),
        COMMA.encode(),
        COMMA.encode("utf-16"),
        b"\n\n" + CLEAN.encode(),
    ],
)
def test_b12_a_strange_series_reads_as_its_clean_twin(tmp_path, raw: bytes) -> None:
    expected, found = series(tmp_path, CLEAN), series(tmp_path, raw)
    assert torch.equal(found.column.values, expected.column.values)
    assert torch.equal(found.column.cells, expected.column.cells)
    assert found.outside == expected.outside == 1


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no_patient_column"),
        (b"patient_id,hour,hr\np1,1,2\x00\n", "control_characters"),
        (b'patient_id,hour,hr\np1,1,"2\n', "malformed_table"),
        (b"patient_id,hour,hr,hr\np1,1,2,3\n", "duplicate_columns"),
        (b"id,hour,hr\np1,1,2\n", "no_patient_column"),
        (b"\xff\xfepatient_id,hour,hr\n", "unreadable_table"),
        (b"patient_id,hour,hr\np1,1," + b"9" * (1 << 25) + b"\n", "malformed_table"),
    ],
)
def test_b12_what_cannot_be_read_is_refused_with_a_reason(tmp_path, raw: bytes, reason) -> None:
    with pytest.raises(DataRejected) as refusal:
        series(tmp_path, raw)
    assert refusal.value.reason == reason


def test_b12_any_bytes_are_read_or_refused(tmp_path) -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        mutant = bytearray(CLEAN.encode("utf-16") if seed % 2 else CLEAN.encode())
        for at in rng.integers(0, len(mutant), int(rng.integers(1, 6))):
            mutant[at] = int(rng.integers(256))
        try:
            series(tmp_path, bytes(mutant))
        except DataError:  # DataRejected among them
            continue


def test_b12_a_mutated_parquet_series_is_read_or_refused(tmp_path) -> None:
    frame = pd.DataFrame({"patient_id": ["p1", "p2"] * 20, "hour": np.arange(40) / 10, "hr": 80.0})
    frame.to_parquet(tmp_path / "v.parquet")
    whole = (tmp_path / "v.parquet").read_bytes()
    refusals = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        mutant = bytearray(whole)
        for at in rng.integers(0, len(mutant), int(rng.integers(1, 12))):
            mutant[at] = int(rng.integers(256))
        try:
            series(tmp_path, bytes(mutant), "v.parquet")
        except DataError:
            refusals += 1
    assert 0 < refusals < 200


def test_parquet_equals_csv_with_stored_times(tmp_path) -> None:
    frame = pd.DataFrame(
        {
            "patient_id": [1, 1, 2],
            "time": pd.to_datetime(["2026-03-01 10:00", "2026-03-01 11:30", "2026-03-01 10:00"]),
            "hr": [80, 90, 70],
            "t": [37.5, None, 36.0],
        }
    )
    frame["patient_id"] = "p" + frame["patient_id"].astype(str)
    frame.to_parquet(tmp_path / "v.parquet")
    a = series(tmp_path, (tmp_path / "v.parquet").read_bytes(), "v.parquet")
    b = series(tmp_path, frame.to_csv(index=False))
    same(dense(a), [[80, 90, NAN, NAN], [37.5, NAN, NAN, NAN]])
    assert torch.equal(a.column.values, b.column.values)
    assert torch.equal(a.column.cells, b.column.cells)
    assert a.absent == b.absent == {"blank": 1}


def test_a_cohort_of_series_opens_is_checked_and_described(hospital) -> None:
    ids = hospital.patients(24)
    rows = [f"{p},{i % 4},{60 + i},{36 + i / 10}" for i, p in enumerate(ids)]
    rows.append(f"{ids[0]},1,999,")
    (hospital.root / "v.csv").write_text("\n".join(["patient_id,hour,hr,t", *rows]))
    hospital.modalities["vitals"] = {"kind": "series", "table": "v.csv"}
    hospital.study_modalities["vitals"] = {
        "kind": "series",
        "features": ["hr", "t"],
        "fields": {"hr": {"high": 350}},
        "recipe": {"hours": 4},
    }
    hospital.options["max_loss_fraction"] = 0.0  # one value that is set aside is no patient lost
    cohort = hospital.open()
    batch = next(iter(cohort.batches("train", 5)))
    assert batch.inputs["vitals"].shape == batch.fields["vitals"].shape == (5, 4, 2)
    report = check_cohort(hospital.settings(), hospital.study())
    assert report.ok
    told = " ".join(f.message for f in report.findings)
    assert "impossible_value" in told
    described = describe_cohort(cohort)["modalities"]["vitals"]
    assert described["summary"]["steps"] == 4
    assert not set(ids) & set(told.replace(",", " ").split())
