import numpy as np
import pytest
import torch

from polyclinic.data.vector import VectorColumn, absent, join, statistics, twins
from polyclinic.errors import DataError
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
