"""A hospital's cohort of a study that segments: splits, batches, unions, checks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marked import SEQUENCES, SHAPE, Ward, a_study
from polyclinic.data import scan
from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import merge, open_cohort
from polyclinic.data.describe import describe_cohort
from polyclinic.data.hidden import hide
from polyclinic.data.selection import MOST_LEARNT
from polyclinic.errors import DataError, StudyError
from polyclinic.study import Modality
from volumes import head, write


def ward(root: Path, count: int = 8, without: list[tuple[int, str]] | None = None, **site: object):
    made = Ward(root, **site)
    made.patients(count, without or [])
    return made


def test_a_cohort_counts_patients_by_sequence_and_has_labels_of_zero(tmp_path: Path) -> None:
    cohort = ward(tmp_path, 8, [(2, "t1"), (3, "flair"), (3, "t1"), (3, "t1ce")]).open()
    splits = ("train", "validation", "test")
    assert cohort.modalities == SEQUENCES
    assert sum(cohort.size(s) for s in splits) == 7
    assert sum(cohort.count(s, "t1") for s in splits) == 6
    assert cohort.quarantine.counts == {"no_modality": 1}
    people = cohort.people("train")
    assert people.tolist() == [cohort.size("train")]
    assert cohort.people("test", "t1").shape == (1,)
    labels = cohort.labels("train")
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0] * cohort.size("train")
    assert cohort.distinct("train") == cohort.size("train")


def test_a_patient_whose_mask_is_lost_is_told_once_and_in_no_split(tmp_path: Path) -> None:
    site = ward(tmp_path, 8, [(0, "seg")])
    write(site.path("p01", "seg"), head(0, SHAPE))
    cohort = site.open()
    assert sum(cohort.size(s) for s in ("train", "validation", "test")) == 6
    assert cohort.quarantine.counts == {"bad_mask": 1, "no_mask": 1}
    assert cohort.quarantine.affected == 2
    told = (tmp_path / "state" / "quarantine" / "tiny.csv").read_text()
    assert "no_mask,mask" in told
    assert "p00" not in told


def test_training_batches_are_crops_of_several_patients_and_know_whose(tmp_path: Path) -> None:
    cohort = ward(tmp_path, 9, [(1, "t1")]).open(a_study(recipe={"crops": 2}))
    assert cohort.size("train") == 7
    seen, present = [], []
    for batch in cohort.batches("train", 3, torch.Generator().manual_seed(0)):
        assert batch.inputs["t1"].shape == (batch.size, 1, 8, 10, 8)
        assert batch.labels.shape == (batch.size, 8, 10, 8)
        assert batch.fields["t1"].shape == (batch.size, 1)
        assert torch.equal(batch.fields["t1"][:, 0], batch.present["t1"])
        assert not batch.inputs["t1"][~batch.present["t1"]].any()
        seen.append(batch.rows.tolist())
        present += batch.present["t1"].tolist()
    # A last patient alone stays alone: nothing normalises over a batch here.
    assert [len(rows) for rows in seen] == [6, 6, 2]
    assert sorted(r for rows in seen for r in rows) == sorted(list(range(7)) * 2)
    assert present.count(False) in (0, 2)


def test_other_batches_are_whole_stacks_one_by_one_in_fixed_order(tmp_path: Path) -> None:
    cohort = ward(tmp_path, 8).open()
    batches = list(cohort.batches("train", 64))
    assert [b.rows.tolist() for b in batches] == [[i] for i in range(6)]
    assert all(b.inputs["flair"].shape == (1, 1, *SHAPE) for b in batches)
    again = list(cohort.batches("train", 2))
    assert all(
        torch.equal(a.labels, b.labels) and torch.equal(a.inputs["t1"], b.inputs["t1"])
        for a, b in zip(batches, again, strict=True)
    )
    kept = batches[0].taken(torch.tensor([True]))
    assert kept.rows.tolist() == [0]


def test_training_can_be_repeated_however_far_ahead_batches_are_made(tmp_path: Path) -> None:
    study = a_study(recipe={"crops": 2, "augment": {"flip": True, "rotate_degrees": 10}})
    cohort = ward(tmp_path, 8).open(study)
    one, other = (
        list(cohort.batches("train", 2, torch.Generator().manual_seed(3))) for _ in range(2)
    )
    assert all(torch.equal(a.inputs["t1"], b.inputs["t1"]) for a, b in zip(one, other, strict=True))


def test_a_batch_that_a_machine_cannot_bear_is_refused(tmp_path: Path) -> None:
    study = a_study(recipe={"crops": 64, "size": [256, 256, 256]})
    selection = ward(tmp_path, 4).open().selection
    together = replace(selection.together, recipe=scan.recipe_of(study))
    assert together.row_bytes > MOST_LEARNT
    with pytest.raises(StudyError, match="lower batch_size"):
        next(replace(selection, together=together).batches("train", 1, torch.Generator()))


def test_a_withheld_sequence_is_read_for_scoring_only(tmp_path: Path) -> None:
    site = ward(tmp_path, 8, held=("flair",), withheld=("t1",))
    cohort = site.open()
    assert cohort.modalities == ("flair",)
    assert set(next(cohort.batches("test", 1)).inputs) == {"flair"}
    everything = cohort.with_evaluation_only()
    batch = next(everything.batches("test", 1))
    assert set(batch.inputs) == {"flair", "t1"}
    assert batch.present["t1"].tolist() == [True]
    alone = next(everything.restricted(("flair",)).batches("test", 1))
    assert torch.equal(alone.inputs["flair"], batch.inputs["flair"])


def test_patients_of_sites_with_fewer_sequences_join_those_of_others(tmp_path: Path) -> None:
    rich = ward(tmp_path / "a", 8, site="a").open()
    poor = ward(tmp_path / "b", 4, site="b", held=("t1",), withheld=("flair",)).open()
    both = merge([rich, poor], SEQUENCES)
    assert both.modalities == SEQUENCES
    assert both.size("train") == rich.size("train") + poor.size("train")
    assert both.count("train", "flair") == rich.size("train")
    last = list(both.batches("train", 5))[-1]
    assert last.rows.tolist() == [both.size("train") - 1]
    assert {m: bool(v[0]) for m, v in last.present.items()} == {
        "flair": False,
        "t1": True,
        "t1ce": False,
    }
    assert not last.inputs["flair"].any()
    mine = list(poor.batches("train", 5))[-1]
    assert torch.equal(last.inputs["t1"], mine.inputs["t1"])
    assert torch.equal(last.labels, mine.labels)
    assert sum(b.size for b in both.batches("train", 4, torch.Generator())) == both.size("train")


def test_a_sequence_can_be_hidden_from_those_who_are_scored(tmp_path: Path) -> None:
    cohort = ward(tmp_path, 8).open()
    hidden = hide(cohort, "flair", 1.0, 0)
    assert hidden.size("train") == cohort.size("train")
    batch, whole = next(hidden.batches("train", 1)), next(cohort.batches("train", 1))
    assert not batch.present["flair"].any()
    assert not batch.inputs["flair"].any()
    assert torch.equal(batch.inputs["t1"], whole.inputs["t1"])


def test_resplitting_keeps_the_scans(tmp_path: Path) -> None:
    cohort = ward(tmp_path, 8).open()
    other = cohort.resplit(5)
    assert other.size("train") == cohort.size("train")
    assert next(other.batches("test", 1)).size == 1


def test_a_study_that_segments_needs_masks_and_says_where_to_name_them(tmp_path: Path) -> None:
    site = ward(tmp_path, 4, mask=None)
    with pytest.raises(DataError, match="declare 'mask' beside 'modalities'"):
        site.open()
    report = check_cohort(site.settings(), a_study())
    assert next(f.check for f in report.findings if f.level == "failed") == "readability"


def test_an_anchor_without_every_sequence_is_refused(tmp_path: Path) -> None:
    site = ward(tmp_path, 4, held=("flair", "t1"), withheld=("t1ce",), cohort={"anchor": True})
    with pytest.raises(DataError, match="every modality of the study"):
        site.open()
    report = check_cohort(site.settings(), a_study())
    assert not report.ok
    assert "anchor" in report.findings[0].remedy
    whole = ward(tmp_path / "b", 4, cohort={"anchor": True})
    assert check_cohort(whole.settings(), a_study()).ok
    assert whole.open().modalities == SEQUENCES


def test_two_files_of_one_sequence_or_mask_are_refused(tmp_path: Path) -> None:
    for i, what in enumerate(("t1", "seg")):
        site = ward(tmp_path / str(i), 4)
        write(site.root / "mri" / "p00" / f"{what}.nii.gz", head(9, SHAPE))
        with pytest.raises(DataError, match="repeated rows"):
            site.open()


def test_check_and_describe_tell_sequences_masks_and_spacing(tmp_path: Path) -> None:
    site = ward(tmp_path, 8, [(0, "t1"), (1, "seg")], options={"max_loss_fraction": 0.5})
    write(site.path("p02", "t1ce"), head(30, SHAPE))  # p03's flair
    write(site.path("p04", "t2"), head(99, SHAPE))
    report = check_cohort(site.settings(), a_study())
    assert report.ok
    told = {(f.check, f.modality): f.message for f in report.findings}
    assert told["masks", ""] == "of 7 patients; marked: none 7, oedema 7, core 7"
    assert told["content", "t1"].startswith("patients 6, spacing to the right 2 mm")
    notes = " | ".join(f.message for f in report.findings if f.level == "warning")
    assert "1 file(s) have exactly the voxels of another" in notes
    assert "1 file(s) are no sequence that this site declares, nor a mask" in notes
    assert report.facts["prevalence"]["train"] == {"patients": 5}
    assert "p0" not in json.dumps(report.facts) + notes
    described = describe_cohort(open_cohort(site.settings(), a_study()))
    assert described["masks"] == {"patients": 7, "none": 7, "oedema": 7, "core": 7}
    assert described["modalities"]["t1"]["patients"] == 6
    assert described["quarantine"] == {"no_mask": 1}


def test_a_mask_that_the_view_cuts_off_is_told(tmp_path: Path) -> None:
    site = ward(tmp_path, 4)
    mask = head(0, (40, 12, 8)) * 0
    mask[2:36, 3:9, 2:6] = 2
    write(site.path("p00", "seg"), mask)
    told = [f.message for f in check_cohort(site.settings(), a_study()).findings]
    assert any("the masks of 1 patient(s) lose more than a tenth" in message for message in told)


def test_small_groups_are_not_told_of_a_sequence(tmp_path: Path) -> None:
    column = ward(tmp_path, 4, [(0, "t1")]).open().records.readings["t1"].column
    assert column.summary(4) == {"patients": "<4"}
    assert column.summary(3)["patients"] == 3


def test_one_sequence_alone_is_not_read(tmp_path: Path) -> None:
    column = scan.absent(2, Modality(kind="volume", features=("t1",)))
    assert column.present.tolist() == [False, False]
    assert scan.join([column, column]).present.tolist() == [False] * 4
    with pytest.raises(StudyError, match="read together"):
        column.collate(torch.arange(2))
