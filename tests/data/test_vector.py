import numpy as np
import pandas as pd
import pytest
import torch

from polyclinic.data.vector import VectorColumn, absent, join, statistics, twins
from polyclinic.errors import DataError, StudyError
from polyclinic.models.multimodal import HeadSettings, SiteModel
from polyclinic.study import Modality

NAN = float("nan")


def column(rows, **agreed) -> VectorColumn:
    values = torch.tensor(rows, dtype=torch.float32)
    return VectorColumn(values.nan_to_num(0.0), ~values.isnan(), **agreed)


def test_values_are_standardised_over_present_training_values() -> None:
    raw = column([[1.0, NAN], [3.0, 10.0], [NAN, 14.0], [100.0, 100.0]])
    ready = raw.prepared(torch.tensor([0, 1, 2]))
    # Column 1: mean 2, deviation 1; column 2: mean 12, deviation 2. The last row only follows.
    expected = [[-1.0, 0.0], [1.0, -1.0], [0.0, 1.0], [98.0, 44.0]]
    torch.testing.assert_close(ready.values, torch.tensor(expected))
    torch.testing.assert_close(ready.fields, raw.fields)


def test_the_study_may_fix_centre_and_spread() -> None:
    ready = column([[3.0], [7.0]], mean=(1.0,), scale=(2.0,)).prepared(torch.tensor([0, 1]))
    torch.testing.assert_close(ready.values, torch.tensor([[1.0], [3.0]]))


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3e8, 1e-30])
def test_b17_a_constant_feature_is_zero_over_train(constant: float) -> None:
    ready = column([[constant]] * 7).prepared(torch.arange(7))
    assert ready.values.abs().max() == 0.0
    assert ready.fields.all()


def test_a_small_but_real_spread_is_not_taken_for_constant() -> None:
    values = torch.tensor([[1e-12], [3e-12]])
    _, scale, _ = statistics(values, torch.ones_like(values, dtype=torch.bool))
    torch.testing.assert_close(scale, torch.tensor([1e-12], dtype=torch.float64))


def test_a_feature_without_training_values_is_absent_for_all() -> None:
    ready = column([[NAN, 1.0], [5000.0, 2.0]]).prepared(torch.tensor([0]))
    assert ready.fields.tolist() == [[False, True], [False, True]]
    assert ready.values[1, 0] == 0.0


def test_a_typing_error_outside_train_cannot_overflow_a_model() -> None:
    ready = column([[1.0], [2.0], [3e38]]).prepared(torch.tensor([0, 1]))
    assert ready.fields.tolist() == [[True], [True], [False]]
    assert ready.values[2, 0] == 0.0


@pytest.mark.parametrize("seed", range(100))
def test_b17_no_nan_whatever_is_missing_constant_or_huge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 12))
    values = rng.standard_normal((rows, 6)) * 10.0 ** rng.integers(-20, 20, 6)
    values[:, 0] = rng.standard_normal()
    values[:, 1] = np.nan
    values[rng.random(values.shape) < rng.random()] = np.nan
    train = torch.from_numpy(rng.permutation(rows)[: int(rng.integers(0, rows + 1))].copy())
    ready = column(values.tolist()).prepared(train)
    assert ready.values.isfinite().all()
    assert not ready.values[~ready.fields].any()


def test_rows_outside_train_do_not_move_the_statistics() -> None:
    a = column([[1.0], [2.0], [3.0]]).prepared(torch.tensor([0, 1]))
    b = column([[1.0], [2.0], [-9.0]]).prepared(torch.tensor([0, 1]))
    torch.testing.assert_close(a.values[:2], b.values[:2], rtol=0, atol=0)


def test_presence_means_at_least_one_value() -> None:
    assert column([[NAN, 1.0], [NAN, NAN]]).present.tolist() == [True, False]


def test_join_keeps_rows_and_absent_has_none() -> None:
    modality = Modality(kind="vector", features=("a", "b"))
    whole = join([column([[1.0, NAN]]), absent(2, modality)])
    assert whole.present.tolist() == [True, False, False]
    inputs, fields = whole.collate(torch.tensor([2, 0]))
    assert inputs.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert fields.tolist() == [[False, False], [True, False]]


def test_a_table_is_joined_by_patient_id_not_by_row(hospital) -> None:
    ids = hospital.patients(8)
    hospital.vector("v", {p: (i, 0, 1) for i, p in reversed(list(enumerate(ids)))})
    cohort = hospital.open()
    raw = cohort.records.readings["v"].column
    assert raw.values[:, 0].tolist() == list(range(8))


def test_missing_columns_are_masked_and_told(hospital) -> None:
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1, 2)), columns=("c", "a"))
    reading = hospital.open().records.readings["v"]
    assert reading.missing_columns == ("b",)
    assert reading.column.fields[0].tolist() == [True, False, True]
    assert reading.column.values[0].tolist() == [2.0, 0.0, 1.0]


def test_a_table_with_none_of_the_panel_is_refused(hospital) -> None:
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1,)), columns=("z",))
    with pytest.raises(DataError, match="none of its 3"):
        hospital.open()


@pytest.mark.parametrize("declared", ["", "tpm"])
def test_other_units_are_refused_naming_both(hospital, declared: str) -> None:
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1, 2, 3)), units=declared)
    hospital.study_modalities["v"]["units"] = "z-score"
    with pytest.raises(DataError, match="'z-score'") as refusal:
        hospital.open()
    assert (declared or "none declared") in str(refusal.value)


def test_rows_without_id_and_ragged_rows_are_set_aside(hospital) -> None:
    ids = hospital.patients(8)
    rows = dict.fromkeys(ids[:6], (1, 2, 3)) | {"": (1, 2, 3), ids[7]: (1, 2, 3, 4)}
    hospital.vector("v", rows)
    cohort = hospital.open()
    # The last two patients of the manifest carry nothing else: they are set aside as well.
    assert cohort.quarantine.counts == {"no_modality": 2, "no_patient_id": 1, "ragged_row": 1}


def test_b15_the_same_measurements_under_two_ids_are_noticed() -> None:
    fractions = [0.5 + i for i in range(8)]
    assert twins(column([fractions, [*fractions[:7], 0.25], fractions, fractions])) == 2


def test_repeated_calls_and_counts_are_no_twins() -> None:
    assert twins(column([[0.0, 1.0, -2.0] * 5] * 3)) == 0
    assert twins(column([[0.5] * 7 + [1.0]] * 2)) == 0


def ruled(hospital, cells, fields, columns=("x",), features=("x",), suffix="csv", **source) -> None:
    """Patients with the cells of one table, read by rules."""
    ids = hospital.patients(len(cells))
    rows = dict(zip(ids, cells, strict=True))
    hospital.vector("v", rows, columns=columns, panel=features, **source)
    hospital.study_modalities["v"]["fields"] = fields
    if suffix == "parquet":
        pd.read_csv(hospital.root / "v.csv", dtype=str).to_parquet(hospital.root / "v.parquet")
        hospital.modalities["v"]["table"] = "v.parquet"


AGES = ["45", "045Y", "018M", "95", "90+", "", "forty", "-1", "130", "44"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_b13_strange_ages_are_masked_capped_and_told(hospital, suffix: str) -> None:
    rule, panel = {"age": {"reads": "age"}}, ("age", "b")
    ruled(hospital, [(a, 1) for a in AGES], rule, panel, panel, suffix)
    hospital.options["max_loss_fraction"] = 0.0  # no patient is lost to a cell
    cohort = hospital.open()
    reading = cohort.records.readings["v"]
    ages = torch.where(reading.column.fields, reading.column.values, NAN)[:, 0].numpy()
    expected = [45, 45, 1.5, 90, 90, NAN, NAN, NAN, NAN, 44]
    np.testing.assert_array_equal(ages, np.float32(expected))
    assert reading.column.present.all()
    assert reading.absent == {"blank": 1, "text": 1}
    assert [(e.reason, e.reference) for e in reading.entries] == [
        ("impossible_value", "line 9"),
        ("impossible_value", "line 10"),
    ]
    assert cohort.quarantine.counts == {"impossible_value": 2}
    assert cohort.quarantine.lost == {}
    listed = (hospital.root / "state" / "quarantine" / "tiny.csv").read_text()
    assert "impossible_value,v,line 9," in listed


def test_b13_statistics_of_the_site_are_no_part_of_what_is_trained_or_sent(hospital) -> None:
    ruled(hospital, [(a,) for a in AGES] * 2, {"age": {"reads": "age"}}, ("age",), ("age",))
    cohort = hospital.open()
    ready = cohort.selection.columns["v"]
    assert (ready.mean, ready.scale) == ((), ())
    model = SiteModel(cohort.study, ("v",), HeadSettings(slots=("v",)))
    assert not list(model.buffers())  # an average of ages would travel as a buffer


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_several_features_come_from_one_column(hospital, suffix: str) -> None:
    views = ("AP", "PA", "LL")
    fields = {
        f"view_{v.lower()}": {"column": "view", "reads": "category", "category": v, "among": views}
        for v in views
    }
    cells = [("AP",), ("PA",), ("oblique",), ("LL",)] * 2
    ruled(hospital, cells, fields, ("view",), tuple(fields), suffix)
    reading = hospital.open().records.readings["v"]
    assert reading.column.values[:4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert reading.column.fields.all(dim=1).tolist() == [True, True, False, True] * 2
    assert {e.reason for e in reading.entries} == {"unknown_category"}
    assert {f.set_aside for f in reading.facts} == {2}


def test_limits_and_intervals_are_numbers_and_are_counted(hospital) -> None:
    cells = [("<0.5",), ('"[3,5]"',), ("-inf",), ("7",)] * 2
    ruled(hospital, cells, {})
    reading = hospital.open().records.readings["v"]
    assert reading.column.values[:4, 0].tolist() == [0.5, 4.0, 0.0, 7.0]
    assert reading.column.fields[:4, 0].tolist() == [True, True, False, True]
    assert reading.absent == {"infinite": 2}
    assert reading.notes == (
        "2 value(s) an interval, taken as its middle",
        "2 value(s) at a limit of detection, taken as the limit",
    )


def test_values_of_other_patients_are_not_set_aside(hospital) -> None:
    ruled(hospital, [("1",)] * 8, {"x": {"high": 10}})
    with (hospital.root / "v.csv").open("a") as file:
        file.write("stranger,999\n")
    reading = hospital.open().records.readings["v"]
    assert reading.entries == ()
    assert reading.outside == 1


def test_a_column_of_mostly_impossible_values_is_refused_by_name(hospital) -> None:
    ruled(hospital, [(98.6,)] * 11 + [(37,)] * 10, {"x": {"low": 25, "high": 45}})
    with pytest.raises(DataError, match="'x'") as refusal:
        hospital.open()
    assert not any(c.isdigit() for c in str(refusal.value))
    ruled(hospital, [(98.6,)] * 10 + [(37,)] * 9, {"x": {"low": 25, "high": 45}})
    hospital.options["max_loss_fraction"] = 1.0
    hospital.open()  # ten values are no verdict on a column


def test_a_rule_cannot_make_the_label_or_the_patient_a_feature(hospital) -> None:
    for column in ("outcome", "patient_id"):
        ruled(hospital, [("1",)] * 8, {"x": {"column": column}})
        with pytest.raises(StudyError, match="as features"):
            hospital.open()
