"""Patients from whom modalities or fields are hidden."""

from dataclasses import dataclass, field

import pytest
import torch

from hospital import a_hospital, a_study
from polyclinic.data.hidden import Veil, dropped, hide
from polyclinic.data.selection import Selection
from polyclinic.data.vector import VectorColumn
from polyclinic.errors import StudyError
from polyclinic.study import parse_study

STUDY = parse_study(
    {
        "name": "toy",
        "task": {"label": "y", "classes": ["no", "yes"]},
        "modalities": {
            "a": {"kind": "vector", "features": ["a1", "a2"]},
            "m": {"kind": "vector", "features": ["m1", "m2", "m3"]},
            "w": {"kind": "bag", "dim": 3},
        },
    }
)


def patients(people: int = 400, records: int = 1) -> Selection:
    """Each person has ``m`` and every other one ``a``, in several records of equal content."""
    n = people * records
    owners = torch.arange(people).repeat(records)
    every, some = torch.ones(n, 3, dtype=torch.bool), (owners % 2 == 0)[:, None].expand(n, 2)
    columns = {"m": VectorColumn(torch.ones(n, 3), every), "a": VectorColumn(some.float(), some)}
    return Selection("s", STUDY, columns, torch.arange(n) % 2, ["test"] * n, 1, owners)


def whole(selection: Selection):
    (batch,) = selection.batches("test", 10_000)
    return batch


def test_about_the_share_that_was_asked_for_is_hidden_and_the_rows_stay() -> None:
    given = patients()
    found = hide(given, "m", 0.25, seed=1)
    batch = whole(found)

    assert found.size("test") == given.size("test") == 400
    assert torch.equal(found.labels("test"), given.labels("test"))
    there = batch.present["m"]
    assert there.float().mean().item() == pytest.approx(0.75, abs=0.08)
    assert found.count("test", "m") == int(there.sum())
    assert torch.equal(batch.fields["m"], there[:, None].expand(-1, 3))
    assert torch.equal(batch.inputs["m"], there[:, None].expand(-1, 3).float())
    assert torch.equal(batch.present["a"], whole(given).present["a"])


def test_nothing_at_rate_0_and_everything_at_rate_1_also_of_those_who_have_nothing_else() -> None:
    given = patients()
    none, everyone = (whole(hide(given, "m", rate, seed=1)) for rate in (0.0, 1.0))

    assert none.present["m"].all()
    assert not everyone.present["m"].any()
    assert not everyone.inputs["m"].any()
    assert everyone.size == 400
    assert not everyone.present["a"][1]  # nothing is left of this patient


def test_a_higher_rate_hides_more_of_the_same_and_a_seed_decides_whom() -> None:
    given = patients()
    low, high, other = (
        whole(hide(given, "m", rate, seed)).present["m"]
        for rate, seed in ((0.25, 1), (0.5, 1), (0.25, 2))
    )
    again = whole(hide(given, "m", 0.25, seed=1)).present["m"]
    assert torch.equal(low, again)
    assert not (high & ~low).any()
    assert high.sum() < low.sum()
    assert not torch.equal(low, other)


def test_shuffled_batches_hide_the_same_patients() -> None:
    found = hide(patients(), "m", 0.5, seed=1)
    generator = torch.Generator().manual_seed(3)
    shown = [b.present["m"] for b in found.batches("test", 32, generator)]
    assert int(torch.cat(shown).sum()) == found.count("test", "m")


def test_the_records_of_a_patient_fare_alike() -> None:
    there = whole(hide(patients(people=50, records=3), "m", 0.5, seed=1)).present["m"]
    first, second, third = there.reshape(3, 50)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert 0 < int(first.sum()) < 50


def test_single_fields_are_hidden_each_by_its_own_chance() -> None:
    batch = whole(hide(patients(), "m", 0.3, seed=1, fields=True))
    fields = batch.fields["m"]
    assert fields.float().mean(0).tolist() == pytest.approx([0.7, 0.7, 0.7], abs=0.08)
    assert not torch.equal(fields[:, 0], fields[:, 1])
    assert torch.equal(batch.inputs["m"], fields.float())
    assert torch.equal(batch.present["m"], fields.any(1))


@dataclass(frozen=True)
class Ones:
    """A column of ones of any shape."""

    shape: tuple[int, ...]
    fields: tuple[int, ...]
    present: torch.Tensor = field(default_factory=lambda: torch.ones(2, dtype=torch.bool))

    def prepared(self, train: torch.Tensor) -> "Ones":
        return self

    def collate(
        self, rows: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(rows)
        return torch.ones(n, *self.shape), torch.ones(n, *self.fields, dtype=torch.bool)


@pytest.mark.parametrize(
    ("shape", "fields"),
    [((4,), (4,)), ((5, 3), (5,)), ((1, 6, 6), (1,)), ((2, 3, 3, 3), (2,)), ((7, 4), (7, 4))],
    ids=["vector", "bag", "image", "volume", "series"],
)
def test_every_kind_of_input_is_zero_and_false_for_a_hidden_patient_and_as_it_was_for_others(
    shape: tuple[int, ...], fields: tuple[int, ...]
) -> None:
    veil = Veil(Ones(shape, fields), torch.tensor([[True], [False]]))
    x, there = veil.collate(torch.tensor([1, 0, 1]))

    assert veil.present.tolist() == [True, False]
    assert x.shape == (3, *shape)
    assert there.shape == (3, *fields)
    assert x[1].all()
    assert there[1].all()
    assert not x[[0, 2]].any()
    assert not there[[0, 2]].any()


def test_a_field_of_a_series_is_hidden_at_every_hour() -> None:
    shown = torch.tensor([[True, False, True], [True, True, True]])
    x, there = Veil(Ones((5, 3), (5, 3)), shown).collate(torch.tensor([0, 1]))
    assert torch.equal(there, shown[:, None, :].expand(2, 5, 3))
    assert torch.equal(x, there.float())


def test_what_is_not_read_here_hides_nothing() -> None:
    given = patients()
    assert hide(given, "w", 0.5, seed=1) is given


def test_a_rate_beyond_1_and_fields_of_a_bag_are_refused() -> None:
    with pytest.raises(StudyError, match="rate"):
        hide(patients(), "m", 1.5, seed=1)
    given = patients()
    bags = given.with_columns({**given.columns, "w": given.columns["m"]})
    with pytest.raises(StudyError, match="'bag'"):
        hide(bags, "w", 0.5, seed=1, fields=True)


def test_eq4_dropout_hides_metadata_but_never_films_nor_the_last_thing_a_patient_has() -> None:
    study = a_study({"cxr": 6, "metadata": 4})
    batch = a_hospital("a", ("cxr", "metadata"), study=study, n=2000).splits["train"]
    batch.present["cxr"][:500] = False
    torch.manual_seed(0)
    found = dropped(batch, "cxr", modality=0.3, fields=0.1)

    assert torch.equal(found.present["cxr"], batch.present["cxr"])
    assert torch.equal(found.fields["cxr"], batch.fields["cxr"])
    assert found.present["metadata"][:500].all()
    assert found.present["metadata"][500:].float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert found.fields["metadata"].float().mean().item() == pytest.approx(0.9, abs=0.02)
