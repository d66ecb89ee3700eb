import threading
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from polyclinic.data import selection as selection_module
from polyclinic.data.hidden import hide
from polyclinic.data.selection import Selection, union
from polyclinic.data.vector import VectorColumn
from polyclinic.errors import StudyError
from polyclinic.study import parse_study

STUDY = parse_study(
    {
        "name": "toy",
        "task": {"label": "y", "classes": ["no", "yes"]},
        "modalities": {
            "a": {"kind": "vector", "features": ["a1"]},
            "b": {"kind": "vector", "features": ["b1", "b2"]},
            "w": {"kind": "bag", "dim": 3},
        },
    }
)


def column(present: list[bool], width: int) -> VectorColumn:
    """Patient i holds the number i + 1 everywhere, if anything."""
    fields = torch.tensor(present)[:, None].expand(-1, width)
    numbers = torch.arange(1.0, len(present) + 1)[:, None].expand(-1, width)
    return VectorColumn(torch.where(fields, numbers, 0.0), fields)


def selection(site="s", patients=7, a=None, b=None, minimum_cell=1, study=STUDY) -> Selection:
    columns = {"a": column(a or [True] * patients, 1)}
    if b is not None:
        columns["b"] = column(b, 2)
    labels = torch.arange(patients) % 2
    return Selection(site, study, columns, labels, ["train"] * patients, minimum_cell)


def test_patients_that_carry_nothing_are_in_no_split() -> None:
    chosen = selection(patients=3, a=[True, False, False], b=[False, True, False])
    assert chosen.size("train") == 2
    assert chosen.labels("train").tolist() == [0, 1]
    assert (chosen.count("train", "a"), chosen.count("train", "b")) == (1, 1)
    assert chosen.count("train", "unheard") == 0
    assert chosen.size("test") == 0
    assert list(chosen.batches("test", 4)) == []


@pytest.mark.parametrize(
    ("patients", "size", "expected"),
    [(7, 3, [3, 4]), (6, 3, [3, 3]), (8, 3, [3, 3, 2]), (1, 3, [1]), (3, 1, [1, 2]), (4, 3, [4])],
)
def test_a_last_batch_of_one_joins_the_one_before(patients, size, expected) -> None:
    assert [b.size for b in selection(patients=patients).batches("train", size)] == expected


def test_without_a_generator_the_order_is_that_of_labels() -> None:
    chosen = selection()
    labels = torch.cat([b.labels for b in chosen.batches("train", 3)])
    assert torch.equal(labels, chosen.labels("train"))


def test_a_generator_shuffles_the_same_way_for_the_same_seed() -> None:
    chosen = selection()

    def order(seed: int) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        batches = chosen.batches("train", 3, generator)
        return torch.cat([b.inputs["a"][:, 0] for b in batches]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == [1, 2, 3, 4, 5, 6, 7]


def test_inputs_are_zero_where_a_patient_lacks_the_modality() -> None:
    chosen = selection(patients=4, b=[True, False, True, False])
    for batch in chosen.batches("train", 2):
        for name in batch.inputs:
            assert not batch.inputs[name][~batch.fields[name]].any()
            assert torch.equal(batch.present[name], batch.fields[name].any(dim=1))


def test_restricting_drops_the_patients_that_carry_nothing_more() -> None:
    chosen = selection(patients=3, a=[True, True, False], b=[True, False, True])
    assert chosen.restricted(["b"]).size("train") == 2
    assert chosen.restricted(["b"]).modalities == ("b",)


def test_union_is_all_patients_of_all_sites_with_any_of_the_modalities() -> None:
    one = selection("one", 3, a=[True, True, False], b=[False, True, True])
    two = selection("two", 2, minimum_cell=11)
    both = union([one, two], ["a", "b", "w"], "all")
    assert both.modalities == ("a", "b", "w")
    assert (both.size("train"), both.count("train", "a"), both.count("train", "b")) == (5, 4, 2)
    assert both.minimum_cell == 11
    (batch,) = both.batches("train", 9)
    assert batch.inputs["a"][:, 0].tolist() == [1, 2, 0, 1, 2]
    assert batch.present["b"].tolist() == [False, True, True, False, False]
    assert batch.inputs["w"].shape == (5, 1, 3)
    assert union([one, two], ["b"], "all").size("train") == 2


def test_union_refuses_patients_of_different_studies() -> None:
    other = STUDY.model_copy(update={"seed": 1})
    with pytest.raises(StudyError, match="2 studies"):
        union([selection(), selection(study=other)], ["a"], "all")


@dataclass(frozen=True)
class Drawn:
    """A column of random numbers; the threads that made its batches are written down."""

    patients: int
    made_by: list[str]
    fails_at: int = -1
    costly: ClassVar[bool] = True

    @property
    def present(self) -> torch.Tensor:
        return torch.ones(self.patients, dtype=torch.bool)

    def prepared(self, train: torch.Tensor) -> "Drawn":
        return self

    def collate(self, rows, generator=None):
        self.made_by.append(threading.current_thread().name)
        if self.fails_at in rows.tolist():
            raise StudyError(expected="a row", got="another", remedy="mend it")
        inputs = torch.rand((rows.numel(), 1), generator=generator) if generator else rows[:, None]
        return inputs, torch.ones((rows.numel(), 1), dtype=torch.bool)


class Cheap(Drawn):
    costly: ClassVar[bool] = False


def drawn(column: Drawn) -> Selection:
    return replace(selection(patients=column.patients), columns={"a": column})


def ahead_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("polyclinic-ahead")]


def test_costly_batches_are_made_by_one_other_thread_and_cheap_ones_are_not() -> None:
    costly, cheap = Drawn(9, []), Cheap(9, [])
    for column in (costly, cheap):
        whole = torch.cat([b.inputs["a"][:, 0] for b in drawn(column).batches("train", 2)])
        assert whole.tolist() == list(range(9))
    here = threading.current_thread().name
    assert set(cheap.made_by) == {here}
    assert len(set(costly.made_by)) == 1
    assert here not in costly.made_by
    assert ahead_threads() == []


def test_the_first_epoch_of_costly_batches_is_the_same_whatever_the_consumer_draws() -> None:
    def first(numbers: int) -> list[float]:
        generator, found = torch.Generator().manual_seed(3), []
        for batch in drawn(Drawn(9, [])).batches("train", 2, generator):
            found += batch.inputs["a"][:, 0].tolist()
            torch.rand(numbers, generator=generator)
        return found

    assert first(1) == first(100)


def test_breaking_off_leaves_no_thread_and_an_error_reaches_the_consumer() -> None:
    next(iter(drawn(Drawn(50, [])).batches("train", 2)))
    for _ in drawn(Drawn(50, [])).batches("train", 2):
        break
    assert ahead_threads() == []
    batches = drawn(Drawn(9, [], fails_at=4)).batches("train", 2)
    assert [next(batches).size, next(batches).size] == [2, 2]
    with pytest.raises(StudyError, match="a row"):
        next(batches)
    assert ahead_threads() == []


def of_films(owners: list[int], site="s", a=None) -> Selection:
    """Films of patients; every odd film is of class 1."""
    chosen = selection(site, len(owners), a=a)
    return replace(chosen, owners=torch.tensor(owners))


def test_without_owners_people_are_rows() -> None:
    chosen = selection(patients=7, b=[True] * 3 + [False] * 4)
    assert chosen.distinct("train") == chosen.size("train") == 7
    assert chosen.people("train").tolist() == [4, 3]
    assert chosen.people("train", "b").tolist() == [2, 1]
    assert chosen.distinct("train", "b") == 3


def test_films_are_rows_and_patients_are_people() -> None:
    chosen = of_films([0, 0, 0, 0, 1], a=[True, True, True, False, True])
    assert (chosen.size("train"), chosen.distinct("train")) == (4, 2)
    # Films 0 and 2 of patient 0 and film 4 of patient 1 are of class 0; film 1 of class 1.
    assert chosen.people("train").tolist() == [2, 1]
    assert (chosen.count("train", "a"), chosen.distinct("train", "a")) == (4, 2)
    assert chosen.people("train", "unheard").tolist() == [0, 0]
    assert chosen.people("test").tolist() == [0, 0]


def test_patients_of_different_sites_are_different_people() -> None:
    both = union([of_films([0, 0, 1], "one"), of_films([0, 0, 0], "two")], ["a"], "all")
    assert (both.size("train"), both.distinct("train")) == (6, 3)


def test_restricted_patients_keep_their_owners() -> None:
    assert of_films([0, 0, 0, 1]).restricted(["a"]).distinct("train") == 2


def test_labels_of_a_batch_are_numbers_with_nan_where_unknown() -> None:
    study = parse_study(
        {
            "name": "toy",
            "task": {"labels": {"p": {}, "q": {}}},
            "modalities": {"a": {"kind": "vector", "features": ["a1"]}},
        }
    )
    labels = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [torch.nan, 0.0]])
    chosen = Selection("s", study, {"a": column([True] * 3, 1)}, labels, ["train"] * 3, 1)
    (batch,) = chosen.batches("train", 9)
    assert batch.labels.dtype == torch.float32
    assert batch.labels.isnan().tolist() == labels.isnan().tolist()
    assert batch.taken(torch.tensor([True, False, True])).labels.shape == (2, 2)
    assert chosen.people("train").tolist() == [[1, 1], [1, 1]]
    assert union([chosen, chosen], ["a"], "all").people("train").tolist() == [[2, 2], [2, 2]]


@dataclass(frozen=True)
class Large(VectorColumn):
    """A column that says its rows take 100 bytes."""

    row_bytes: ClassVar[int] = 100


def large(patients: int) -> Selection:
    fields = torch.ones((patients, 1), dtype=torch.bool)
    rows = Large(torch.arange(float(patients))[:, None], fields)
    whole = selection(patients=patients)
    return replace(whole, columns={"a": rows})


def test_large_rows_are_looked_at_in_smaller_batches_and_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection_module, "MOST_SHOWN", 299)
    chosen = large(7)
    veiled = hide(chosen, "a", 0.0, seed=0)

    for patients in (chosen, veiled):
        shown = list(patients.batches("train", 256))
        assert [b.size for b in shown] == [2, 2, 3]  # a last batch of one joins another
        assert torch.cat([b.inputs["a"][:, 0] for b in shown]).tolist() == [*range(7)]
    monkeypatch.setattr(selection_module, "MOST_SHOWN", 1)
    assert [b.size for b in large(4).batches("train", 256)] == [1, 1, 2]


def test_a_job_that_asks_for_batches_too_large_to_learn_from_is_refused_before_one_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection_module, "MOST_LEARNT", 400)
    chosen = large(7)

    assert [b.size for b in chosen.batches("train", 4, torch.Generator())] == [4, 3]
    with pytest.raises(StudyError, match="batches of at most"):
        next(iter(chosen.batches("train", 5, torch.Generator())))
    # Nobody has as many patients as a job may ask for in a batch.
    assert [b.size for b in large(4).batches("train", 10**9, torch.Generator())] == [4]
