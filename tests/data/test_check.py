import json

import pytest

from polyclinic.data.check import check_cohort
from polyclinic.errors import DataError, SiteError


def report_of(hospital, **more):
    return check_cohort(hospital.settings(), hospital.study(), **more)


def messages(report, check):
    return [(f.level, f.modality, f.message) for f in report.findings if f.check == check]


def sound(hospital, count=40):
    ids = hospital.patients(count)
    hospital.vector("v", {p: (i, i % 7, i % 3) for i, p in enumerate(ids)})
    return ids


def test_a_sound_cohort_is_accepted(hospital) -> None:
    sound(hospital)
    report = report_of(hospital)
    assert report.ok
    assert {f.level for f in report.findings} == {"ok"}
    assert messages(report, "leakage") == [("ok", "", "0 patient(s) in two splits")]


def test_what_fails_here_is_what_open_cohort_refuses(hospital) -> None:
    ids = sound(hospital)
    with (hospital.root / "manifest.csv").open("a") as file:
        file.write(f"{ids[0]},yes\n")
    report = report_of(hospital)
    assert not report.ok
    assert [(f.check, f.level) for f in report.findings if f.level == "failed"] == [
        ("duplicates", "failed")
    ]
    with pytest.raises(Exception, match="repeated rows"):
        hospital.open()


def test_b15_leakage_is_told_as_a_count(hospital) -> None:
    hospital.split = {"source": "manifest"}
    rows = [(f"secret-{i // 2}", "yes", ("train", "test")[i % 2]) for i in range(8)]
    hospital.manifest(rows, "patient_id,outcome,split")
    hospital.vector("v", {f"secret-{i}": (i, 1, 2) for i in range(4)})
    report = report_of(hospital)
    assert messages(report, "leakage") == [("failed", "", "4 patient(s) in two splits")]
    assert "secret" not in json.dumps([vars(f) for f in report.findings])


def test_all_failures_are_found_in_one_pass(hospital) -> None:
    ids = sound(hospital)
    hospital.vector("broken", {ids[0]: ("1",)}, ("x",), ("x",))
    (hospital.root / "broken.csv").write_bytes(b"patient_id,x\x00")
    hospital.vector("units", dict.fromkeys(ids, ("1",)), ("x",), ("x",), units="tpm")
    hospital.study_modalities["units"]["units"] = "counts"
    report = report_of(hospital)
    assert [f.modality for f in report.findings if f.level == "failed"] == ["broken", "units"]


def test_a_manifest_that_cannot_be_read_is_a_failed_check(hospital) -> None:
    sound(hospital)
    (hospital.root / "manifest.csv").write_bytes(b"\x00")
    report = report_of(hospital)
    assert [f.level for f in report.findings] == ["failed"]


def test_an_unknown_cohort_is_bad_input(hospital) -> None:
    sound(hospital)
    with pytest.raises(SiteError):
        check_cohort(hospital.settings(), hospital.study().model_copy(update={"name": "other"}))


def test_constant_and_empty_columns_and_missing_ones_are_named(hospital) -> None:
    ids = hospital.patients(40)
    hospital.vector(
        "v",
        {p: (i, 7, "") for i, p in enumerate(ids)},
        columns=("vary", "same", "blank"),
        panel=("vary", "same", "blank", "lost"),
    )
    report = report_of(hospital)
    assert report.ok
    assert messages(report, "columns") == [
        ("warning", "v", "1 empty: blank"),
        ("warning", "v", "1 constant: same"),
    ]
    assert messages(report, "panel") == [
        ("warning", "v", "3 of 4 columns; trained with masks for: lost")
    ]


def test_strange_values_and_rows_of_strangers_are_counted(hospital) -> None:
    ids = sound(hospital)
    hospital.vector("v", dict.fromkeys(ids, ("old", "inf", 1)) | {"x": (1, 2, 3)})
    report = report_of(hospital)
    assert messages(report, "values") == [("warning", "v", "taken as absent: 40 infinite, 40 text")]
    assert messages(report, "join")[0][2].startswith("1 row(s)")


def test_quarantine_beyond_the_limit_fails_with_reasons(hospital) -> None:
    ids = hospital.patients(40)
    hospital.vector("v", {p: (i, 1, 2) for i, p in enumerate(ids[:30])})
    report = report_of(hospital)
    ((level, _, message),) = messages(report, "quarantine")
    assert level == "warning"
    assert "10 × no_modality" in message
    hospital.options = {"max_loss_fraction": 0.2}
    assert not report_of(hospital).ok


def test_prevalence_hides_small_cells(hospital) -> None:
    sound(hospital)
    report = report_of(hospital)
    # 20 of each class: 5 of each are held out, 15 train.
    assert report.facts["prevalence"] == {
        "train": {"no": 15, "yes": 15},
        "test": {"no": "<11", "yes": "<11"},
    }


def test_b17_a_one_class_site_is_told_and_accepted(hospital) -> None:
    hospital.manifest([(f"p{i}", "no") for i in range(20)])
    hospital.vector("v", {f"p{i}": (i, i % 2, i % 5) for i in range(20)})
    report = report_of(hospital)
    assert report.ok
    assert ("warning", "", "no training patient of: yes; AUROC cannot be told") in messages(
        report, "labels"
    )


def test_a_cohort_without_training_patients_fails(hospital) -> None:
    hospital.split = {"source": "manifest"}
    hospital.manifest([(f"p{i}", "no", "test") for i in range(9)], "patient_id,outcome,split")
    hospital.vector("v", {f"p{i}": (i, 1, 2) for i in range(9)})
    assert ("failed", "", "no training patients") in messages(report_of(hospital), "labels")


def test_the_size_of_a_round_is_asked_for_the_modalities_trained_on(hospital) -> None:
    ids = sound(hospital)
    hospital.vector("w", dict.fromkeys(ids, (1,)), ("x",), ("x",), evaluation_only=True)
    report = report_of(hospital, round_size=lambda study, held: (len(held) * 10**6, 5 * 10**5))
    assert report.facts["round_bytes"] == {"up": 10**6, "down": 5 * 10**5}
    assert messages(report, "round") == [("ok", "", "sends 1.00 MB and receives 0.50 MB")]


def test_what_is_held_for_evaluation_only_is_said_to_be(hospital) -> None:
    ids = sound(hospital)
    hospital.vector("w", dict.fromkeys(ids, (1,)), ("x",), ("x",), evaluation_only=True)
    told = {modality: what for _, modality, what in messages(report_of(hospital), "agreement")}
    assert told["w"].endswith("for evaluation only, not trained on")
    assert not told["v"].endswith("not trained on")


def test_progress_counts_patients_of_every_modality(hospital) -> None:
    import numpy as np

    ids = sound(hospital, 12)
    hospital.bags("wsi", {p: np.ones((2, 2)) for p in ids})
    told: list[int] = []
    report_of(hospital, tick=told.append)
    assert sum(told) == 24


def test_a_manifest_of_a_header_alone_is_a_failed_check(hospital) -> None:
    ids = sound(hospital)
    assert ids
    hospital.manifest([])
    report = report_of(hospital)
    assert not report.ok
    assert [f.message for f in report.findings if f.level == "failed"] == ["no training patients"]


def test_three_patients_of_ten_films_are_three_patients(hospital) -> None:
    films = hospital.films([10, 10, 10])
    hospital.vector("v", {f: (i, i % 7, 2) for i, f in enumerate(films)})
    report = report_of(hospital)
    assert messages(report, "readability")[0][2] == "manifest of 30 rows, records of 3 patients"
    for counts in report.facts["prevalence"].values():
        assert set(counts.values()) == {"<11"}


def test_a_label_that_nobody_knows_is_told_and_accepted(hospital) -> None:
    hospital.task = {"labels": {"pneumonia": {}, "view_ap": {}}}
    rows = [(f"p{i:02d}", "", i % 2) for i in range(60)]
    hospital.manifest(rows, "patient_id,pneumonia,view_ap")
    hospital.vector("v", {p: (i, 1, i % 5) for i, (p, *_) in enumerate(rows)})
    report = report_of(hospital)
    assert report.ok
    assert messages(report, "labels")[0] == (
        "warning",
        "",
        "no training patient of: pneumonia (known of nobody); AUROC cannot be told",
    )
    # 30 of each view, a quarter (rounded: 8) of each tested.
    assert report.facts["prevalence"]["train"] == {
        "pneumonia": {"no": "<11", "yes": "<11", "unknown": 44},
        "view_ap": {"no": 22, "yes": 22},
    }


def test_a_modality_whose_ids_are_written_otherwise_fails_and_is_not_trained_without(
    hospital,
) -> None:
    ids = sound(hospital)
    hospital.vector("labs", {p.upper(): (i, i % 7, 1.5) for i, p in enumerate(ids)})
    report = report_of(hospital)
    ((level, name, message),) = [m for m in messages(report, "join") if m[1] == "labs"]
    assert (level, name, report.ok) == ("failed", "labs", False)
    assert message == (
        "0 of 40 patients carry it; 40 row(s) or file(s) of patients outside the manifest; 40 of "
        "their ids would match one of the manifest's if case and leading zeros did not count"
    )
    assert ids[0].upper() not in message
    with pytest.raises(DataError, match="'labs'"):
        hospital.open()


def test_a_modality_for_evaluation_only_may_be_empty(hospital) -> None:
    sound(hospital)
    hospital.vector("labs", {"x": (1, 2, 3)}, evaluation_only=True)
    report = report_of(hospital)
    assert report.ok
    assert [m[:2] for m in messages(report, "join")] == [("warning", "labs")]
    assert hospital.open().size("train")


def test_patients_whose_manifest_row_was_set_aside_are_not_outside(hospital) -> None:
    ids = hospital.patients(40)
    rows = {p: (i, i % 7, i % 3) for i, p in enumerate(ids)}
    hospital.vector("v", rows | {"x": (1, 2, 3)})
    hospital.manifest([(p, "perhaps" if i < 3 else "no") for i, p in enumerate(ids)])
    ((level, _, message),) = messages(report_of(hospital), "join")
    assert level == "warning"
    assert message == (
        "1 row(s) or file(s) of patients outside the manifest; 3 row(s) or file(s) of patients "
        "whose row of the manifest was set aside (see quarantine)"
    )
