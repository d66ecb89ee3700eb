import importlib.util

import numpy as np
import pytest
import torch

from polyclinic.data.cohort import merge, open_cohort
from polyclinic.errors import DataError, SiteError, StudyError
from polyclinic.models.multimodal import HeadSettings, SiteModel

NAN = "nan"


def with_two(hospital, count=12):
    """Vectors a patient carries: both, only v, only w, in turn."""
    ids = hospital.patients(count)
    hospital.vector("v", {p: (i, 1, 2) for i, p in enumerate(ids) if i % 3 != 2})
    hospital.vector(
        "w", {p: (i,) for i, p in enumerate(ids) if i % 3 != 1}, columns=("x",), panel=("x",)
    )
    return ids


def test_b16_rows_that_do_not_pair_are_kept_with_masks(hospital) -> None:
    with_two(hospital)
    cohort = hospital.open()
    assert cohort.quarantine.entries == ()
    assert cohort.size("train") + cohort.size("test") == 12
    for split in ("train", "test"):
        for batch in cohort.batches(split, 100):
            for name in ("v", "w"):
                gone = ~batch.present[name]
                assert gone.any()
                assert not batch.inputs[name][gone].any()
                assert not batch.fields[name][gone].any()
            assert (batch.present["v"] | batch.present["w"]).all()


def test_b16_the_gradient_of_an_encoder_whose_modality_is_absent_is_zero(hospital) -> None:
    with_two(hospital)
    cohort = hospital.open()
    torch.manual_seed(0)
    model = SiteModel(cohort.study, ("v", "w"), HeadSettings(slots=("v", "w"), dropout=0.0))
    seen = set()
    for batch in cohort.batches("train", 1):
        there = {m: bool(batch.present[m].any()) for m in ("v", "w")}
        model.zero_grad(set_to_none=True)
        loss = model(batch).fused.square().sum()
        loss.backward()
        assert torch.isfinite(loss)
        for name, encoder in model.enc.items():
            moved = [p.grad is not None and bool(p.grad.any()) for p in encoder.parameters()]
            assert any(moved) == there[name]
        seen.add((there["v"], there["w"]))
    assert seen == {(True, True), (True, False), (False, True)}


def test_patients_without_modality_are_quarantined_and_counted(hospital) -> None:
    ids = hospital.patients(10)
    hospital.vector("v", dict.fromkeys(ids[:8], (1, 2, 3)) | {ids[8]: ("", NAN, "old")})
    cohort = hospital.open()
    assert cohort.quarantine.counts == {"no_modality": 2}
    assert cohort.quarantine.fraction == pytest.approx(0.2)
    assert cohort.size("train") + cohort.size("test") == 8


def test_too_many_quarantined_patients_refuse_the_cohort_without_counts(hospital) -> None:
    ids = hospital.patients(10)
    hospital.vector("v", dict.fromkeys(ids[:8], (1, 2, 3)))
    hospital.options = {"max_loss_fraction": 0.19}
    with pytest.raises(DataError, match="max_loss_fraction") as refusal:
        hospital.open()
    assert not any(p in str(refusal.value) for p in ids)
    # The list is there for the data manager even though the cohort was refused.
    listed = (hospital.root / "state" / "quarantine" / "tiny.csv").read_text()
    assert listed.count("no_modality") == 2


def test_b15_a_repeated_patient_in_a_table_is_refused_by_count(hospital) -> None:
    ids = hospital.patients(8)
    hospital.vector("v", dict.fromkeys(ids, (1, 2, 3)))
    with (hospital.root / "v.csv").open("a") as file:
        file.write(f"{ids[0]},1,2,3\n{ids[0]},4,5,6\n")
    with pytest.raises(DataError, match="got repeated rows") as refusal:
        hospital.open()
    assert ids[0] not in str(refusal.value)


def test_b15_no_patient_of_an_open_cohort_is_in_two_splits(hospital) -> None:
    hospital.vector("v", {p: (i, 0, 0) for i, p in enumerate(hospital.patients(40))})
    hospital.split = {"test": 0.25, "validation": 0.25}
    cohort = hospital.open()
    raw = cohort.records.readings["v"].column.values[:, 0].tolist()
    assert sorted(raw) == list(range(40))
    assert len(cohort.selection.assigned) == 40
    assert sum(cohort.size(s) for s in ("train", "validation", "test")) == 40


def test_standardisation_uses_the_training_patients_of_the_current_split(hospital) -> None:
    ids = hospital.patients(20)
    rng = np.random.default_rng(0)
    hospital.vector("v", {p: rng.normal(5, 3, 3).round(3) for p in ids})
    cohort = hospital.open()
    for seed in (0, 1, 2):
        (batch,) = cohort.resplit(seed).batches("train", 100)
        values = batch.inputs["v"].double()
        torch.testing.assert_close(values.mean(dim=0), torch.zeros(3).double(), atol=1e-6, rtol=0)
        spread = values.std(dim=0, unbiased=False)
        torch.testing.assert_close(spread, torch.ones(3).double(), atol=1e-6, rtol=0)


def test_resplit_draws_again_and_leaves_the_first_cohort_alone(hospital) -> None:
    hospital.vector("v", {p: (i, 0, 0) for i, p in enumerate(hospital.patients(40))})
    cohort = hospital.open()
    before = list(cohort.selection.assigned)
    other = cohort.resplit(1)
    assert list(other.selection.assigned) != before
    assert list(cohort.selection.assigned) == before
    assert list(other.resplit(cohort.seed).selection.assigned) == before


def test_the_split_does_not_depend_on_the_order_of_rows(hospital) -> None:
    ids = hospital.patients(30)
    hospital.vector("v", {p: (i, 0, 0) for i, p in enumerate(ids)})
    first = hospital.open()
    hospital.manifest([(p, "no" if i % 2 else "yes") for i, p in reversed(list(enumerate(ids)))])
    hospital.vector("v", {p: (i, 0, 0) for i, p in reversed(list(enumerate(ids)))})
    again = hospital.open()
    (a,), (b,) = first.batches("test", 99), again.batches("test", 99)
    assert torch.equal(a.inputs["v"], b.inputs["v"])
    assert torch.equal(a.labels, b.labels)


def test_evaluation_only_modalities_are_not_trained_on_but_can_be_read(hospital) -> None:
    ids = hospital.patients(12)
    hospital.vector("v", dict.fromkeys(ids[:9], (1, 2, 3)))
    hospital.vector("w", {p: (i,) for i, p in enumerate(ids)}, ("x",), ("x",), evaluation_only=True)
    cohort = hospital.open()
    assert cohort.modalities == ("v",)
    assert sum(cohort.size(s) for s in ("train", "test")) == 9
    everything = cohort.with_evaluation_only()
    assert everything.modalities == ("v", "w")
    assert sum(everything.size(s) for s in ("train", "test")) == 12
    assert everything.assigned == cohort.selection.assigned


def test_b17_a_one_class_site_opens(hospital) -> None:
    ids = [f"p{i}" for i in range(6)]
    hospital.manifest([(p, "no") for p in ids])
    hospital.vector("v", {p: (i, 7, 7) for i, p in enumerate(ids)})
    cohort = hospital.open()
    assert cohort.labels("train").unique().tolist() == [0]
    for batch in cohort.batches("train", 3):
        assert batch.inputs["v"].isfinite().all()


def test_a_modality_of_the_site_that_the_study_does_not_ask_for_is_not_read(hospital) -> None:
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1, 2, 3)))
    hospital.modalities["other"] = {"kind": "vector", "table": "not-there.csv"}
    assert hospital.open().modalities == ("v",)


def test_a_site_with_nothing_to_train_on_is_told(hospital) -> None:
    ids = hospital.patients(8)
    hospital.vector("v", dict.fromkeys(ids, (1, 2, 3)), evaluation_only=True)
    with pytest.raises(DataError, match="none of 1"):
        hospital.open()


def test_an_unknown_cohort_and_a_kind_without_reader_are_told(hospital, monkeypatch) -> None:
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1, 2, 3)))
    other = hospital.study().model_copy(update={"name": "elsewhere"})
    with pytest.raises(SiteError, match="'elsewhere'"):
        open_cohort(hospital.settings(), other)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found(name) if "vector" not in name else None
    )
    with pytest.raises(StudyError, match="'vector'"):
        hospital.open()


def test_storage_that_cannot_be_written_is_a_site_error(hospital) -> None:
    hospital.vector("v", dict.fromkeys(hospital.patients(8), (1, 2, 3)))
    (hospital.root / "state").write_text("a file where the folder should be")
    with pytest.raises(SiteError, match="storage"):
        hospital.open()


def test_merge_restricts_to_the_modalities_and_keeps_each_sites_standardisation(hospitals) -> None:
    cohorts = []
    for i, site in enumerate(("one", "two")):
        place = hospitals(site)
        ids = place.patients(12)
        place.study_modalities = {
            "v": {"kind": "vector", "features": ["a", "b", "c"]},
            "w": {"kind": "vector", "features": ["x"]},
        }
        place.vector(
            "v" if i else "w",
            {p: (j, j, j)[: 3 if i else 1] for j, p in enumerate(ids)},
            ("a", "b", "c") if i else ("x",),
        )
        cohorts.append(place.open())
    pooled = merge(cohorts, ["v", "w"])
    assert pooled.modalities == ("v", "w")
    assert pooled.size("test") == sum(c.size("test") for c in cohorts)
    assert merge(cohorts, ["v"]).size("test") == cohorts[1].size("test")
    (alone,), (together,) = (
        cohorts[1].batches("test", 99),
        merge(cohorts, ["v"]).batches("test", 99),
    )
    assert torch.equal(alone.inputs["v"], together.inputs["v"])


def test_merge_refuses_patients_it_cannot_look_into() -> None:
    with pytest.raises(StudyError):
        merge([object()], ["v"])  # type: ignore[list-item]


@pytest.mark.parametrize("column", ["patient_id", "outcome"])
def test_a_panel_with_the_patient_or_the_label_is_refused(hospital, column: str) -> None:
    ids = hospital.patients(8)
    rows = {p: (i, 1, 2) for i, p in enumerate(ids)}
    hospital.vector("v", rows, panel=("a", column))
    with pytest.raises(StudyError, match="column"):
        hospital.open()


def with_films(hospital, counts):
    """Films and laboratory values by film; every third film has none."""
    films = hospital.films(counts)
    hospital.vector("v", {f: (i, i % 5, 2) for i, f in enumerate(films)})
    some = {f: (i,) for i, f in enumerate(films) if i % 3}
    hospital.vector("w", some, columns=("x",), panel=("x",))
    return films


def test_every_table_is_joined_by_the_record_where_a_patient_has_several(hospital) -> None:
    films = with_films(hospital, [1 + i % 4 for i in range(24)])
    cohort = hospital.open()
    rows = {s: cohort.size(s) for s in ("train", "test")}
    assert sum(rows.values()) == len(films) == 60
    assert cohort.distinct("train") + cohort.distinct("test") == 24
    assert cohort.count("train", "w") < cohort.count("train", "v") == rows["train"]
    assert cohort.people("train").sum() == cohort.distinct("train")
    merged = merge([cohort], ["v", "w"])
    assert merged.distinct("train") == cohort.distinct("train")


def test_b15_no_patient_of_an_open_cohort_of_films_is_in_two_splits(hospital) -> None:
    with_films(hospital, [1 + i % 4 for i in range(24)])
    cohort = hospital.open()
    for seed in range(3):
        again = cohort.resplit(seed).selection
        train, test = (set(again.owners_of(s).tolist()) for s in ("train", "test"))
        assert train
        assert test
        assert not train & test


def test_films_that_are_set_aside_are_counted_by_patient(hospital) -> None:
    films = hospital.films([5, 5, 1, 1])
    # Nine films have values; three of patient 0 have none.
    hospital.vector("v", dict.fromkeys(films[3:], (1, 2, 3)))
    hospital.options = {"max_loss_fraction": 0.25}
    cohort = hospital.open()
    report = cohort.quarantine
    assert report.lost == {"no_modality": 3}
    assert report.people == {"no_modality": 1}
    assert (report.affected, report.patients, report.fraction) == (1, 4, 0.25)
    assert not any("p000" in str(e) or "f000" in str(e) for e in report.entries)


def test_labels_of_a_cohort_are_known_by_label(hospital) -> None:
    hospital.task = {"labels": {"pneumonia": {}, "view_ap": {}}}
    hospital.split = {"test": 0.0}
    hospital.manifest([("a", 1, ""), ("b", 0, 1), ("c", "", 0)], "patient_id,pneumonia,view_ap")
    hospital.vector("v", {p: (i, 1, 2) for i, p in enumerate("abc")})
    cohort = hospital.open()
    assert cohort.labels("train").nan_to_num(-1.0).tolist() == [[1, -1], [0, 1], [-1, 0]]
    assert cohort.people("train").tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("column", ["patient_id", "film_id", "outcome"])
@pytest.mark.parametrize("by_rule", [False, True])
def test_no_panel_holds_an_id_or_the_label_also_not_by_a_rule(hospital, column, by_rule) -> None:
    hospital.films([2, 2])
    panel = {"kind": "vector", "features": [column]}
    if by_rule:
        panel = {"kind": "vector", "features": ["x"], "fields": {"x": {"column": column}}}
    hospital.study_modalities = {"v": panel}
    hospital.modalities = {"v": {"kind": "vector", "table": "v.csv"}}
    (hospital.root / "v.csv").write_text("film_id,x\nf000-0,1\n")
    with pytest.raises(StudyError, match="as features of"):
        hospital.open()


@pytest.mark.parametrize("column", ["patient_id", "film_id", "outcome"])
def test_no_series_counts_its_hours_from_an_id_or_the_label(hospital, column) -> None:
    hospital.films([2, 2])
    panel = {"kind": "series", "features": ["x"], "recipe": {"hours": 4, "start": column}}
    hospital.study_modalities = {"v": panel}
    hospital.modalities = {"v": {"kind": "series", "table": "v.csv"}}
    (hospital.root / "v.csv").write_text("film_id,hour,x\nf000-0,1,1\n")
    with pytest.raises(StudyError, match="as features of"):
        hospital.open()


def test_the_column_of_records_is_another_than_that_of_patients(hospital) -> None:
    hospital.films([2])
    hospital.vector("v", {"f000-0": (1, 2, 3)})
    hospital.records = "patient_id"
    with pytest.raises(ValueError, match="another column"):
        hospital.settings()
