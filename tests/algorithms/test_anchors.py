"""Anchors: their sums against the naive ones, and B9 with every way in which one may be missing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from polyclinic.algorithms.anchors import (
    KNOWN,
    MEMBER,
    NOBODY,
    Anchors,
    SampleMeans,
    anchor_specs,
    class_sums,
    clustered,
    level_name,
    member_means,
    nearest,
    renewed,
)
from polyclinic.anchor_site import anchors_fault
from polyclinic.exchange import PERSONAL

NAN = float("nan")


def drawn(features: tuple[int, ...], mask: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (2, 3, *features) and classes (2, *mask) of three."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn((2, 3, *features), generator=generator),
        torch.randint(3, (2, *mask), generator=generator),
    )


def enlarged_sums(features: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both sums of (1) voxel by voxel: voxel v takes the feature floor(v small / large)."""
    sums, counts = np.zeros((2, 3, 3)), np.zeros((2, 3))
    for b in range(2):
        for v in np.ndindex(*labels.shape[1:]):
            sizes = zip(v, features.shape[2:], labels.shape[1:], strict=True)
            place = tuple(i * small // large for i, small, large in sizes)
            sums[b, labels[(b, *v)]] += features[(b, slice(None), *place)].numpy()
            counts[b, labels[(b, *v)]] += 1
    return sums, counts


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((4, 4, 4), (8, 8, 8)),
        ((2, 3, 1), (8, 5, 1)),
        ((3, 5, 4), (5, 9, 7)),
        ((6, 6, 6), (6, 6, 6)),
        ((1, 1, 1), (3, 2, 5)),
    ],
)
def test_class_sums_are_those_of_features_enlarged_by_nearest_neighbour(
    small: tuple[int, ...], large: tuple[int, ...]
) -> None:
    features, labels = drawn(small, large)
    expected = enlarged_sums(features, labels)
    for found, wanted in zip(class_sums(features, labels, 3), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_nearest_neighbour_is_that_of_torch() -> None:
    features, labels = drawn((5, 3, 4), (9, 5, 8))
    large = F.interpolate(features, size=labels.shape[1:], mode="nearest")
    mine = F.one_hot(labels, 3).float()
    expected = torch.einsum("bwijk,bijkc->bcw", large, mine)
    np.testing.assert_allclose(class_sums(features, labels, 3)[0], expected, atol=1e-4)


def test_slices_are_volumes_one_voxel_thick() -> None:
    features, labels = drawn((4, 5, 1), (8, 9, 1))
    flat = class_sums(features[..., 0], labels, 3)
    for found, wanted in zip(flat, class_sums(features, labels, 3), strict=True):
        assert torch.equal(found, wanted)


def test_crops_of_a_patient_add_up_however_they_come() -> None:
    features, labels = drawn((4, 4, 4), (8, 8, 8))
    together, apart = (SampleMeans.empty(3, [3], 3) for _ in range(2))
    together.add(torch.tensor([1, 1]), [features], labels)
    for crop in (0, 1):
        apart.add(torch.tensor([1]), [features[[crop]]], labels[[crop]])
    sums, counts = (a.sum(0) for a in enlarged_sums(features, labels))
    for found in (together, apart):
        np.testing.assert_allclose(found.means(0)[1], sums / counts[:, None], rtol=1e-4)
        assert np.isnan(found.means(0)[[0, 2]]).all()
        assert found.seen.tolist() == [[False] * 3, [True] * 3, [False] * 3]


def test_a_class_that_a_patient_lacks_has_no_mean() -> None:
    features, labels = drawn((4, 4, 4), (8, 8, 8))
    found = SampleMeans.empty(2, [3], 3)
    found.add(torch.arange(2), [features], labels.clamp(max=1))
    assert np.isnan(found.means(0)[:, 2]).all()
    assert np.isfinite(found.means(0)[:, :2]).all()


def test_a_batch_with_a_number_that_is_not_finite_is_left_out_whole() -> None:
    features, labels = drawn((4, 4, 4), (8, 8, 8))
    broken = features.clone()
    broken[0, 0, 0, 0, 0] = NAN
    found = SampleMeans.empty(2, [3, 3], 3)
    found.add(torch.arange(2), [features, broken], labels)
    assert not found.seen.any()
    assert not any(sums.any() for sums in found.sums)


def points(*values: float) -> np.ndarray:
    """Patients on a line."""
    return np.array(values)[:, None]


def groups(found: np.ndarray) -> set[frozenset[int]]:
    """Who is with whom."""
    return {frozenset(np.flatnonzero(found == k).tolist()) for k in set(found.tolist())}


def test_patients_that_look_alike_are_one_cluster() -> None:
    found = clustered(points(0, 0.1, 9, 9.1, 9.2), 2, 1, seed=0)
    assert groups(found) == {frozenset({0, 1}), frozenset({2, 3, 4})}
    assert set(found.tolist()) == {0, 1}


def test_a_cluster_smaller_than_the_cell_joins_its_nearest() -> None:
    values = points(0, 0.1, 0.2, 4, 9, 9.1, 9.2)
    assert len(groups(clustered(values, 3, 1, seed=0))) == 3
    merged = clustered(values, 3, 2, seed=0)  # 4 is nearer to 0.1 than to 9.1
    assert groups(merged) == {frozenset({0, 1, 2, 3}), frozenset({4, 5, 6})}
    assert set(merged.tolist()) == {0, 1}  # numbered without a gap


def test_fewer_patients_than_the_cell_are_in_no_cluster() -> None:
    assert clustered(points(0, 1, 2), 2, 4, seed=0).tolist() == [NOBODY] * 3
    assert len(groups(clustered(points(0, 1, 2, 9), 2, 4, seed=0))) == 1
    assert clustered(points(), 2, 1, seed=0).tolist() == []


def test_fewer_different_patients_than_slots_are_as_many_clusters() -> None:
    assert groups(clustered(points(1, 1, 1), 4, 1, seed=0)) == {frozenset({0, 1, 2})}
    assert len(groups(clustered(points(1, 2), 4, 1, seed=0))) == 2


def test_the_mean_of_a_cluster_is_that_of_its_members_who_were_seen() -> None:
    values = np.array([[1.0, 2.0], [3.0, 6.0], [NAN, NAN], [7.0, 7.0], [100.0, 100.0]])
    means, counts = member_means(values, np.array([0, 0, 0, 1, NOBODY]), 3, 1)
    assert means.tolist() == [[2, 4], [7, 7], [0, 0]]
    assert counts.tolist() == [2, 1, 0]


def test_the_mean_of_fewer_members_than_the_cell_is_not_told() -> None:
    means, counts = member_means(points(1, 3, 5), np.array([0, 0, 1]), 2, 2)
    assert means.tolist() == [[2], [0]]
    assert counts.tolist() == [2, 0]


def test_the_nearest_anchor_is_a_known_one() -> None:
    values, centres = points(0, 10, NAN), points(1, 9, 0)
    assert nearest(values, centres, np.array([True, True, False])).tolist() == [0, 1, NOBODY]
    assert nearest(values, centres, np.array([False, True, False])).tolist() == [1, 1, NOBODY]
    assert nearest(values, centres, np.zeros(3, bool)).tolist() == [NOBODY] * 3


def shown(*classes: list[float], above: list[float] | None = None) -> SampleMeans:
    """An epoch in which each class looked like this to each patient; NaN where it was not there.

    Args:
        above: how the only class looked at the level above.
    """
    told = [np.array(classes)] if above is None else [np.array([above]), np.array(classes)]
    voxels = np.where(np.isfinite(told[-1].T), 2.0, 0.0)  # (S, C)
    return SampleMeans([2.0 * np.nan_to_num(level.T[..., None]) for level in told], voxels)


def none(classes: int = 1, slots: int = 2, levels: int = 1) -> Anchors:
    """Before round 0."""
    rows = (np.zeros((classes * slots, 1), np.float32) for _ in range(levels))
    return Anchors(tuple(rows), np.zeros(classes * slots, bool), np.zeros((0, 0), np.int64))


def after(old: Anchors, found: SampleMeans, slots: int = 2, **settings: object) -> Anchors:
    """The next anchors; the defaults are without a smallest cell."""
    told = {"least": 1, "omega": 0.5, "matching": "frozen", "seed": 0} | settings
    new = renewed(old, found, slots=slots, **told)  # type: ignore[arg-type]
    assert anchors_fault(new.tensors()) == ""
    assert all(np.isfinite(level).all() for level in new.levels)
    return new


def values(anchors: Anchors, level: int = 0) -> list[float]:
    """Known anchors of a level, sorted: the numbers of clusters mean nothing."""
    return sorted(anchors.levels[level][anchors.known].ravel().tolist())


def test_b9_the_contract_has_a_row_for_every_class_and_slot() -> None:
    specs = anchor_specs((16, 32, 64, 128), classes=4, slots=4)
    assert [specs[level_name(i)].shape for i in (1, 2, 3, 4)] == [
        (16, width) for width in (16, 32, 64, 128)
    ]
    assert specs[KNOWN].shape == (16,)
    numbers = sum(int(np.prod(s.shape)) for n, s in specs.items() if n != KNOWN)
    assert numbers == 3840  # 4 · 4 · (16 + 32 + 64 + 128), 15 kB


def test_b9_rows_are_class_by_class() -> None:
    found = after(none(2), shown([1, 1, 5, 5], [30, 30, 30, 30]))
    assert sorted(found.levels[0][:2, 0].tolist()) == [1, 5]
    assert found.levels[0][2:, 0].tolist() == [30, 0]
    assert found.known.tolist() == [True, True, True, False]


def test_b9_with_one_slot_an_anchor_is_the_mean_over_patients() -> None:
    found = after(none(2, 1), shown([1, 2, 6], [10, 20, NAN]), slots=1)
    assert found.levels[0].ravel().tolist() == [3, 15]


def test_clusters_are_of_the_deepest_level_and_hold_at_every_level() -> None:
    # At the level above patients look alike across these clusters: (1 + 7) / 2 and (1 + 9) / 2.
    found = after(none(levels=2), shown([0, 0, 10, 10], above=[1, 7, 1, 9]))
    assert values(found, 1) == [0, 10]
    assert values(found, 0) == [4, 5]


def test_the_first_renewal_takes_the_means_whole_and_later_ones_a_part() -> None:
    first = after(none(), shown([0, 0, 10, 10]))
    assert values(first) == [0, 10]
    second = after(first, shown([2, 2, 20, 20]))
    assert values(second) == [2, 20]
    third = after(second, shown([4, 4, 40, 40]))
    assert values(third) == [3, 30]  # .5 · 2 + .5 · 4, .5 · 20 + .5 · 40


def test_b9_with_omega_1_anchors_are_constant_after_the_first_renewal() -> None:
    anchors = none()
    for scale in (1.0, 2.0):
        anchors = after(anchors, shown([0, 0, 10 * scale, 10 * scale]), omega=1.0)
    for scale in (3.0, 4.0):
        later = after(anchors, shown([scale, scale, 10 * scale, 10 * scale]), omega=1.0)
        assert later.levels[0].tobytes() == anchors.levels[0].tobytes()
        anchors = later


def test_with_omega_0_anchors_are_the_means_of_the_round() -> None:
    anchors = after(none(), shown([0, 0, 10, 10]))
    for now in (3.0, 7.0):
        anchors = after(anchors, shown([now, now, 10 * now, 10 * now]), omega=0.0)
        assert values(anchors) == [now, 10 * now]


def test_whoever_is_in_a_cluster_stays_in_it() -> None:
    first = after(none(), shown([0, 0, 10, 10]))
    second = after(first, shown([10, 10, 0, 0]))  # everybody looks like the others
    assert second.member.tolist() == first.member.tolist()
    assert second.levels[0].ravel().tolist() == first.levels[0].ravel()[::-1].tolist()


def test_a_state_that_knows_no_anchor_divides_nobody_anew() -> None:
    first = after(none(), shown([0, 0, 0, 10, 10, 10]))
    told = replace(first, levels=none().levels, known=none().known)  # by the coordinator
    second = after(told, shown([0, 0, 10, 10, 10, 10]))
    assert second.member.tolist() == first.member.tolist()
    assert values(second) == [pytest.approx(10 / 3), 10]
    # Each patient may be assigned anew where the job says so: there it begins again.
    assert values(after(told, shown([0, 0, 10, 10, 10, 10]), matching="nearest")) == [0, 10]


def test_matching_by_nearest_lets_patients_change_their_cluster() -> None:
    first = after(none(), shown([0, 0, 10, 10]))
    second = after(first, shown([10, 10, 0, 0]), matching="nearest")
    assert second.member.tolist() == first.member[::-1].tolist()
    assert second.levels[0].tolist() == first.levels[0].tolist()


def test_a_patient_who_is_first_seen_later_joins_the_nearest_cluster() -> None:
    first = after(none(), shown([0, 0, 10, 10, NAN]))
    assert first.member[4, 0] == NOBODY
    second = after(first, shown([0, 0, 10, 10, 7]))
    assert second.member[4, 0] == second.member[3, 0]
    assert values(second) == [0, 9]  # (10 + 10 + 7) / 3


def test_a_patient_who_is_not_seen_in_a_round_keeps_its_cluster_and_does_not_count() -> None:
    first = after(none(), shown([0, 0, 10, 10]))
    second = after(first, shown([0, 4, 20, NAN]))
    assert values(second) == [2, 20]
    assert second.member.tolist() == first.member.tolist()


def test_a_class_absent_from_every_crop_has_no_anchor() -> None:
    anchors = none(2)
    for _ in range(3):
        anchors = after(anchors, shown([1, 1, 5], [NAN, NAN, NAN]))
    assert anchors.known.tolist() == [True, True, False, False]
    assert not anchors.levels[0][2:].any()


@pytest.mark.parametrize("matching", ["frozen", "nearest"])
def test_a_class_that_is_first_shown_later_has_its_anchors_then(matching: str) -> None:
    anchors = after(none(2), shown([1, 1, 5], [NAN, NAN, NAN]), matching=matching)
    anchors = after(anchors, shown([1, 1, 5], [30, 30, 70]), matching=matching)
    assert anchors.known.all()
    assert sorted(anchors.levels[0][2:].ravel().tolist()) == [30, 70]


def test_nobody_seen_at_all_leaves_the_anchors_as_they_are() -> None:
    nothing = shown([NAN, NAN, NAN])
    assert not after(none(), nothing).known.any()
    first = after(none(), shown([0, 0, 10]))
    assert after(first, nothing).levels[0].tobytes() == first.levels[0].tobytes()


def test_an_anchor_without_members_in_a_round_keeps_its_value() -> None:
    first = after(none(), shown([0, 0, 10, 10]))
    second = after(first, shown([4, 4, NAN, NAN]))
    assert values(second) == [4, 10]
    assert second.known.all()


def test_fewer_patients_than_the_cell_have_no_anchor() -> None:
    anchors = none()
    for _ in range(2):
        anchors = after(anchors, shown([1, 2, 3]), least=4)
        assert not anchors.known.any()
        assert not anchors.levels[0].any()
    assert values(after(none(), shown([1, 2, 3]), least=3)) == [2]


def test_no_anchor_ever_shows_fewer_patients_than_the_cell() -> None:
    first = after(none(), shown([0, 0, 0, 10, 10]), least=2)
    assert values(first) == [0, 10]
    # Of the second cluster one patient is seen, one too few: its anchor stays at 10.
    assert values(after(first, shown([4, 4, 4, 50, NAN]), least=2)) == [4, 10]


@pytest.mark.parametrize("kept", ["none", "another number of patients"])
def test_another_cohort_starts_anew(kept: str) -> None:
    old = after(none(2), shown([0, 10, 10], [7, 7, 7]))
    memory = {} if kept == "none" else old.memory()
    opened = Anchors.of(old.tensors(), memory, patients=4)
    assert not opened.member.size
    assert opened.renewals == 0
    found = after(opened, shown([3, 3, 3, 3], [NAN, NAN, NAN, NAN]))
    # One cluster of class 0, none of the old ones beside it; class 1 keeps what nobody can renew.
    assert found.levels[0].ravel().tolist() == [3, 0, 7, 0]
    assert found.known.tolist() == [True, False, True, False]


def test_anchors_are_what_was_broadcast_and_membership_what_the_site_kept() -> None:
    anchors = after(none(levels=2), shown([0, 0, 10, 10], above=[3, 3, 3, 5]))
    kept = anchors.memory()
    assert all(n.startswith(PERSONAL) for n in kept)
    assert not set(anchors.tensors()) & set(kept)
    again = Anchors.of(anchors.tensors(), kept, patients=4)
    assert again.member.tolist() == anchors.member.tolist()
    assert again.known.tolist() == anchors.known.tolist()
    assert again.renewals == 1
    for one, other in zip(again.levels, anchors.levels, strict=True):
        assert one.tobytes() == other.tobytes()


def test_nobody_may_read_membership_from_what_is_sent() -> None:
    anchors = after(none(), shown([0, 0, 10, 10]))
    assert MEMBER not in anchors.tensors()
    assert "member" not in repr(anchors)
    assert {a.dtype.name for a in anchors.tensors().values()} == {"float32"}


def test_the_same_epoch_gives_the_same_anchors() -> None:
    rng = np.random.default_rng(0)
    epoch = shown(*rng.standard_normal((2, 9)).tolist())
    first, second = (after(none(2), epoch, least=2) for _ in range(2))
    assert first.levels[0].tobytes() == second.levels[0].tobytes()
    assert replace(first, levels=()).member.tolist() == second.member.tolist()
