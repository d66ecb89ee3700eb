"""Batches of a segmentation: whole stacks to look at, crops to learn from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marked import SEQUENCES, SHAPE, Ward, a_study
from polyclinic.data.scan_stacks import Scans
from polyclinic.errors import StudyError
from polyclinic.study import Study

HERE = torch.tensor([True])
CROPS = {
    "size": [8, 8, 1],
    "crops": 3,
    "foreground": 0.5,
    "augment": {"flip": True, "rotate_degrees": 10, "intensity": 0.2},
}


def scans(root: Path, study: Study | None = None, **ward: object) -> Scans:
    """The stacks of three patients; the second one lacks t1."""
    site = Ward(root, **ward)
    site.patients(3, [(1, "t1")])
    together = site.open(study).records.together
    assert isinstance(together, Scans)
    return together


def everything(rows: int = 3) -> dict[str, torch.Tensor]:
    return {m: torch.tensor([m != "t1" or i != 1 for i in range(rows)]) for m in SEQUENCES}


def test_without_a_generator_a_patients_whole_stack_comes(tmp_path: Path) -> None:
    found = scans(tmp_path)
    inputs, fields, labels, which = found.collate(torch.tensor([0]), dict.fromkeys(SEQUENCES, HERE))
    held = torch.from_numpy(found.stacks[0].held.read().copy()).float()
    for i, m in enumerate(SEQUENCES):
        assert inputs[m].shape == (1, 1, *SHAPE)
        assert inputs[m].dtype == torch.float32
        assert torch.equal(inputs[m][0, 0], held[i])
        assert fields[m].tolist() == [[True]]
    assert labels.dtype == torch.int64
    assert torch.equal(labels[0], torch.from_numpy(found.stacks[0].mask.read().copy()).long())
    assert which.tolist() == [0]


def test_crops_are_drawn_in_training_of_every_patient_alike(tmp_path: Path) -> None:
    found = scans(tmp_path, a_study(recipe=CROPS))
    rows = torch.tensor([2, 0, 1])
    present = {m: there[rows] for m, there in everything().items()}
    inputs, fields, labels, which = found.collate(rows, present, torch.Generator().manual_seed(0))
    assert which.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert labels.shape == (9, 8, 8, 1)
    assert all(x.shape == (9, 1, 8, 8, 1) for x in inputs.values())
    assert fields["t1"].flatten().tolist() == [True] * 6 + [False] * 3
    assert not inputs["t1"][6:].any()
    again = found.collate(rows, present, torch.Generator().manual_seed(0))
    assert all(torch.equal(inputs[m], again[0][m]) for m in SEQUENCES)
    assert torch.equal(labels, again[2])
    other = found.collate(rows, present, torch.Generator().manual_seed(1))
    assert not torch.equal(labels, other[2])


def test_a_row_draws_the_same_whoever_lacks_a_sequence(tmp_path: Path) -> None:
    found = scans(tmp_path, a_study(recipe=CROPS))
    rows = torch.arange(3)
    whole = found.collate(rows, everything(), torch.Generator().manual_seed(4))
    less = everything() | {"flair": torch.tensor([False, True, False])}
    part = found.collate(rows, less, torch.Generator().manual_seed(4))
    assert torch.equal(whole[2], part[2])
    assert torch.equal(whole[0]["t1ce"], part[0]["t1ce"])
    assert torch.equal(whole[0]["flair"][3:6], part[0]["flair"][3:6])
    assert not part[0]["flair"][:3].any()
    assert not part[0]["flair"][6:].any()


def test_a_patient_may_be_shown_without_any_sequence(tmp_path: Path) -> None:
    found = scans(tmp_path)
    none = dict.fromkeys(SEQUENCES, torch.tensor([False]))
    inputs, fields, labels, _ = found.collate(torch.tensor([0]), none)
    assert not any(x.any() for x in inputs.values())
    assert not any(f.any() for f in fields.values())
    assert labels.any()


def test_more_crops_lie_on_a_mark_where_the_recipe_asks_for_them(tmp_path: Path) -> None:
    def share(folder: str, foreground: float) -> float:
        recipe = {"size": [8, 8, 1], "crops": 40, "foreground": foreground}
        found = scans(tmp_path / folder, a_study(recipe=recipe))
        labels = found.collate(torch.arange(3), everything(), torch.Generator().manual_seed(0))[2]
        return float((labels > 0).flatten(1).any(dim=1).float().mean())

    # Of 8 slices 4 are marked.
    assert share("a", 0.0) == pytest.approx(0.5, abs=0.15)
    assert share("b", 1.0) == 1.0


def test_the_bytes_of_a_row_are_those_of_its_crops(tmp_path: Path) -> None:
    found = scans(tmp_path, a_study(recipe=CROPS))
    inputs, _, labels, _ = found.collate(
        torch.tensor([0]), dict.fromkeys(SEQUENCES, HERE), torch.Generator()
    )
    assert found.row_bytes == sum(x.nbytes for x in (*inputs.values(), labels))


def test_a_row_without_a_stack_is_an_error(tmp_path: Path) -> None:
    site = Ward(tmp_path)
    site.patients(4, [(0, "seg")])
    found = site.open().records.together
    with pytest.raises(StudyError, match="rows of patients who carry a sequence"):
        found.collate(torch.tensor([0]), dict.fromkeys(SEQUENCES, HERE))


def test_small_groups_of_a_class_are_not_told(tmp_path: Path) -> None:
    found = scans(tmp_path)
    assert found.summary(1) == {"patients": 3, "none": 3, "oedema": 3, "core": 3}
    assert found.summary(4) == {"patients": "<4", "none": "<4", "oedema": "<4", "core": "<4"}
    one = found.stacks[0]
    lacking = replace(found, stacks=(replace(one, voxels=(960, 5, 0)), *found.stacks[1:]))
    assert lacking.summary(2) == {"patients": 3, "none": 3, "oedema": 3, "core": "hidden"}
