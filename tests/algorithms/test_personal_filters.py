"""FedMEPD's rule of personal filters: B5, B6, the bits of B4, and H, on filters made by hand."""

from pathlib import Path

import numpy as np
import pytest

from polyclinic.algorithms.personal_filters import (
    FilterMemory,
    decoder_of,
    discrepancy,
    federated,
    normaliser,
    overlay,
    waited,
)
from polyclinic.exchange import PERSONAL, Tensors
from polyclinic.filters import FilterLayout, layout_of
from polyclinic.storage import load_tensors, save_tensors


def convolution(*filters: tuple[float, ...], bias: float = 0.0) -> Tensors:
    """``dec.a`` with a filter of each of these rows."""
    weight = np.float32(filters)[:, :, None, None]
    return {"dec.a.weight": weight, "dec.a.bias": np.full(len(filters), bias, np.float32)}


def drawn(seed: int, scale: float = 1.0) -> Tensors:
    """Two convolutions of 3 and 2 filters, the one of volumes and the other of slices."""
    rng = np.random.default_rng(seed)
    shapes = {"dec.b.1.weight": (3, 2, 3, 3, 3), "dec.b.1.bias": (3,)}
    shapes |= {"dec.a.weight": (2, 3, 1, 1), "dec.a.bias": (2,)}
    return {n: np.float32(scale * rng.standard_normal(s)) for n, s in shapes.items()}


def test_the_discrepancy_is_the_cosine_of_the_two_changes() -> None:
    server = convolution((1, 0), (3, 4), (1, 2), (0, 2))
    site = convolution((1, 1), (-3, -4), (2, -1), (0, 7))
    found = discrepancy(server, site, layout_of(server))
    # 1 / (1 √2);  -25 / (5 · 5);  (2 - 2) / 5;  14 / (2 · 7)
    np.testing.assert_allclose(found, [1 / np.sqrt(2), -1.0, 0.0, 1.0], rtol=1e-7)


def test_a_bias_follows_its_filter_and_has_no_say() -> None:
    server, site = convolution((1, 0), bias=1e3), convolution((1, 0), bias=-1e3)
    assert discrepancy(server, site, layout_of(server)).tolist() == [1.0]


def test_a_filter_that_did_not_move_at_a_side_has_discrepancy_0() -> None:
    server, site = convolution((0, 0), (1, 0), (0, 0)), convolution((1, 0), (0, 0), (0, 0))
    assert discrepancy(server, site, layout_of(server)).tolist() == [0.0, 0.0, 0.0]


def test_every_filter_has_its_own_discrepancy_in_the_order_of_the_layout() -> None:
    server, site = drawn(1), drawn(2)
    expected = []
    for name in ("dec.a.weight", "dec.b.1.weight"):
        for a, b in zip(server[name].astype(float), site[name].astype(float), strict=True):
            expected.append((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    found = discrepancy(server, site, layout_of(server))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3])
def test_the_size_of_a_change_does_not_matter_to_its_direction(scale: float) -> None:
    server, site = drawn(1), drawn(2)
    small = {n: a * np.float32(scale) for n, a in site.items()}
    layout = layout_of(server)
    expected = discrepancy(server, site, layout)
    np.testing.assert_allclose(discrepancy(server, small, layout), expected, rtol=1e-5)


def patience_after(*deltas: float, limit: int) -> list[float]:
    """q after each of the rounds, of one filter that starts at P."""
    q, found = np.float32([limit]), []
    for delta in deltas:
        q = waited(q, np.array([delta]), limit=limit)
        found.append(float(q[0]))
    return found


def test_b5_p_negatives_in_a_row_make_a_filter_personal_for_ever() -> None:
    assert patience_after(-0.1, -0.9, -0.01, 1.0, 1.0, -1.0, limit=3) == [2, 1, 0, 0, 0, 0]
    assert patience_after(-0.1, limit=1) == [0]


def test_b5_one_agreement_gives_all_patience_back() -> None:
    assert patience_after(-1, -1, 0.001, -1, -1, -1, limit=3) == [2, 1, 3, 2, 1, 0]


def test_b5_a_discrepancy_of_0_leaves_patience_as_it_was() -> None:
    assert patience_after(0, -1, 0, 0, -1, 0, limit=3) == [3, 2, 2, 2, 1, 1]


def test_b6_what_is_personal_once_stays_personal() -> None:
    rng = np.random.default_rng(0)
    q = np.full(50, 2, np.float32)
    before = federated(q)
    for _ in range(30):
        q = waited(q, rng.standard_normal(50).round(1), limit=2)
        now = federated(q)
        assert (now <= before).all()
        before = now
    assert not before.all()


def test_the_mask_is_one_byte_a_filter() -> None:
    mask = federated(np.float32([3, 0, 1]))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [1, 0, 1]


def test_the_weight_remembers_and_follows_the_ratio_of_the_changes() -> None:
    server, site = convolution((3, 4), (0, 1)), convolution((6, 8), (0, 2))
    found = normaliser(np.float32([1, 2]), server, site, layout_of(server), share=0.25)
    # .95 · 1 + .05 · (5 / 10) · .25;  .95 · 2 + .05 · (1 / 2) · .25
    np.testing.assert_allclose(found, [0.95625, 1.90625], rtol=1e-6)


def test_the_ratio_is_held_to_ten_and_never_divides_by_0() -> None:
    server = convolution((100, 0), (1, 0), (0, 0), (0, 0))
    site = convolution((1, 0), (0, 0), (1, 0), (0, 0))
    found = normaliser(np.ones(4, np.float32), server, site, layout_of(server), share=0.5)
    # 100 / 1 is held to 10: .95 + .05 · 10 · .5; so is 1 / 0; 0 / 1 is 0; 0 / 0 changes nothing
    np.testing.assert_allclose(found, [1.2, 1.2, 0.95, 1.0], rtol=1e-6)


def test_the_memory_of_the_weight_has_both_limits() -> None:
    server, site = convolution((2, 0)), convolution((1, 0))
    layout, before = layout_of(server), np.float32([0.7])
    assert normaliser(before, server, site, layout, share=0.5, keep=0.0) == [1.0]  # 2 · .5
    assert normaliser(before, server, site, layout, share=0.5, keep=1.0) == before


def test_b4_a_personal_filter_is_bit_for_bit_what_it_was_and_others_are_the_broadcast() -> None:
    odd = np.float32([-0.0, 1e-45, 3.4e38])
    own = {"dec.a.weight": np.stack([odd, odd])[:, :, None, None], "dec.a.bias": odd[:2]}
    broadcast = convolution((1, 2, 3), (4, 5, 6), bias=7.0)
    found = overlay(broadcast, own, np.uint8([0, 1]))
    assert found["dec.a.weight"][0].tobytes() == odd.tobytes()
    assert found["dec.a.bias"][:1].tobytes() == odd[:1].tobytes()
    assert found["dec.a.weight"][1].ravel().tolist() == [4, 5, 6]
    assert found["dec.a.bias"][1] == 7.0


def test_an_overlay_is_a_copy() -> None:
    own, broadcast = convolution((1, 1), (2, 2)), convolution((3, 3), (4, 4))
    overlay(broadcast, own, np.uint8([0, 1]))["dec.a.weight"][:] = 9.0
    assert broadcast["dec.a.weight"].max() == 4.0
    assert own["dec.a.weight"].max() == 2.0


def test_before_any_training_even_a_personal_filter_is_the_broadcast() -> None:
    broadcast = drawn(1)
    found = overlay(broadcast, {}, np.zeros(5, np.uint8))
    assert all(np.array_equal(found[n], a) for n, a in broadcast.items())


def test_a_fresh_memory_has_all_patience_and_weight_1() -> None:
    memory = FilterMemory.fresh(FilterLayout({}, 3), 10)
    assert memory.patience.tolist() == [10, 10, 10]
    assert memory.weight.tolist() == [1, 1, 1]
    assert memory.mask.tolist() == [1, 1, 1]


def test_b7_with_patience_0_every_filter_is_personal_before_the_first_round() -> None:
    assert FilterMemory.fresh(FilterLayout({}, 3), 0).mask.tolist() == [0, 0, 0]


def a_memory(limit: int = 2) -> FilterMemory:
    """Of a site that trained on the broadcast of round 3."""
    fresh = FilterMemory.fresh(layout_of(drawn(0)), limit)
    return fresh.trained(drawn(1), drawn(2, 0.1), drawn(3), 3)


def same(one: FilterMemory, other: FilterMemory) -> bool:
    """Whether two memories are the same bit for bit."""
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def test_a_memory_survives_the_sites_disk(tmp_path: Path) -> None:
    memory = a_memory()
    kept = memory.tensors()
    assert all(n.startswith(PERSONAL) for n in kept)
    sha256 = save_tensors(tmp_path / "m.safetensors", kept)
    loaded = load_tensors(tmp_path / "m.safetensors", sha256)
    assert same(FilterMemory.of(loaded, layout_of(drawn(0)), 2), memory)


def test_a_memory_of_another_decoder_is_forgotten() -> None:
    other = FilterLayout({}, 4)
    assert same(FilterMemory.of(a_memory().tensors(), other, 2), FilterMemory.fresh(other, 2))
    assert same(FilterMemory.of({}, other, 2), FilterMemory.fresh(other, 2))


def test_a_round_counts_by_the_servers_change_between_two_broadcasts() -> None:
    seen = convolution((1, 1), (1, 1), (1, 1))
    moved = convolution((2, 0), (2, 0), (2, 0))
    later = convolution((2, 1), (0, 1), (1, 1))  # the server moved by 1, by -1 and not at all
    fresh = FilterMemory.fresh(layout_of(seen), 1)
    memory = fresh.trained(seen, moved, seen, 3)
    found = memory.after(later, 4, limit=1, share=0.5, keep=0.95)
    assert found.mask.tolist() == [1, 0, 1]
    # .95 + .05 · (1 / 2) · .5; personal; .95 + .05 · 0
    np.testing.assert_allclose(found.weight, [0.9625, 0.0, 0.95], rtol=1e-6)


@pytest.mark.parametrize("t", [3, 5, 9])
def test_after_a_round_without_this_site_nothing_is_counted(t: int) -> None:
    memory = a_memory()
    assert same(memory.after(drawn(4), t, limit=2, share=0.5, keep=0.95), memory)


def test_before_any_training_nothing_is_counted() -> None:
    fresh = FilterMemory.fresh(layout_of(drawn(0)), 2)
    assert same(fresh.after(drawn(1), 0, limit=2, share=0.5, keep=0.95), fresh)


def test_the_decoder_is_what_its_names_say() -> None:
    tensors = drawn(0) | {"enc.t1.weight": np.zeros(2, "f4"), "store.total": np.zeros(1, "f4")}
    assert decoder_of(tensors).keys() == drawn(0).keys()
