"""The fold takes what the guard passed, once per site, and nothing else."""

import numpy as np
import pytest

from flare.counting import HELD, STUDY, CountingServer
from polyclinic.errors import CheckpointError
from polyclinic.exchange import State
from polyclinic.flare.aggregator import UpdateAggregator
from polyclinic.flare.census import Announcement
from polyclinic.flare.convert import Reply
from polyclinic.flare.guard import Refused
from polyclinic.study import parse_study

STUDY_ = parse_study(STUDY)
ANNOUNCED = {"site-1": 20.0, "site-2": 30.0, "site-3": 350.0}


def _open(t: int = 1, most_share: float = 1.0) -> tuple[UpdateAggregator, State]:
    server = CountingServer()
    aggregator = UpdateAggregator(server, STUDY_, server.contract(STUDY_), most_share)
    state = server.initial(STUDY_)
    census = {s: Announcement(tuple(m), {"n": ANNOUNCED[s]}) for s, m in HELD.items()}
    aggregator.open(state, t, census)
    return aggregator, state


def _reply(site: str, value: float = 1.0, n: float = 20.0, **more: np.ndarray) -> Reply:
    tensors = {f"enc.{m}.w": np.full(3, value, np.float32) for m in HELD[site]}
    tensors |= {"fuse.w": np.full((2, 2), value, np.float32), **more}
    return Reply("WEIGHT_DIFF", tensors, {"n": n, "t": 1.0})


def test_each_name_is_the_mean_of_the_sites_that_hold_it() -> None:
    aggregator, _ = _open()
    aggregator.accept("site-1", _reply("site-1", 1.0, 10.0))
    aggregator.accept("site-2", _reply("site-2", 4.0, 30.0))
    new = aggregator.close(2)
    assert new is not None
    # wsi and fuse: (10 * 1 + 30 * 4) / 40; cnv: site-2 alone.
    assert new.tensors["enc.wsi.w"].tolist() == [3.25] * 3
    assert new.tensors["enc.cnv.w"].tolist() == [4.0] * 3
    assert new.round == 1


def test_f18_a_site_weighs_no_more_than_it_announced() -> None:
    aggregator, _ = _open()
    aggregator.accept("site-2", _reply("site-2", 0.0, 30.0))
    with pytest.raises(Refused) as caught:
        aggregator.accept("site-1", _reply("site-1", 5.0, 21.0))
    assert caught.value.reason == "weight"
    aggregator.accept("site-1", _reply("site-1", 5.0, 20.0))
    new = aggregator.close(2)
    assert new is not None
    assert new.tensors["fuse.w"].tolist() == [[2.0, 2.0], [2.0, 2.0]]  # 20 * 5 / 50


def test_f18_with_a_most_share_a_site_that_announced_a_crowd_weighs_no_more_than_that() -> None:
    for share, mean in ((1.0, 350 / 400), (0.5, 0.5)):
        aggregator, _ = _open(most_share=share)
        for site, value in (("site-1", 0.0), ("site-2", 0.0), ("site-3", 1.0)):
            aggregator.accept(site, _reply(site, value, ANNOUNCED[site]))
        new = aggregator.close(3)
        assert new is not None
        assert new.tensors["fuse.w"][0, 0] == np.float32(mean)


def test_f16_a_name_that_nobody_sent_keeps_its_value_and_stays_in_the_state() -> None:
    aggregator, state = _open()
    aggregator.accept("site-1", _reply("site-1"))
    new = aggregator.close(1)
    assert new is not None
    assert new.tensors["enc.cnv.w"].tobytes() == state.tensors["enc.cnv.w"].tobytes()


@pytest.mark.parametrize(
    "poison",
    [
        {"fuse.w": np.full((2, 2), np.nan, np.float32)},
        {"fuse.w": np.ones((1,), np.float32)},
        {"enc.mri.w": np.ones(3, np.float32)},
    ],
    ids=["nan", "broadcastable", "unknown"],
)
def test_f14_f15_f17_a_refused_update_changes_the_mean_by_nothing(
    poison: dict[str, np.ndarray],
) -> None:
    clean, _ = _open()
    dirty, _ = _open()
    with pytest.raises(Refused):
        dirty.accept("site-3", _reply("site-3", 7.0, 20.0, **poison))
    for aggregator in (clean, dirty):
        aggregator.accept("site-1", _reply("site-1", 1.0))
        aggregator.accept("site-2", _reply("site-2", 2.0))
    one, other = clean.close(2), dirty.close(2)
    assert one is not None
    assert other is not None
    assert {n: a.tobytes() for n, a in one.tensors.items()} == {
        n: a.tobytes() for n, a in other.tensors.items()
    }
    assert sorted(dirty.heard) == ["site-1", "site-2"]


def test_f12_a_second_answer_of_a_site_counts_for_nothing() -> None:
    aggregator, _ = _open()
    aggregator.accept("site-1", _reply("site-1", 1.0))
    aggregator.accept("site-2", _reply("site-2", 1.0))
    with pytest.raises(Refused) as caught:
        aggregator.accept("site-1", _reply("site-1", 100.0))
    assert caught.value.reason == "duplicate"
    new = aggregator.close(2)
    assert new is not None
    assert new.tensors["fuse.w"].tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_site_that_gave_no_census_does_not_count() -> None:
    aggregator, _ = _open()
    with pytest.raises(Refused) as caught:
        aggregator.accept("site-9", _reply("site-1"))
    assert caught.value.reason == "census"


def test_f21_below_the_quorum_there_is_no_new_state() -> None:
    aggregator, _ = _open()
    assert aggregator.close(1) is None
    aggregator.accept("site-1", _reply("site-1"))
    assert aggregator.close(2) is None


def test_what_came_is_told_by_site_and_group_in_bytes() -> None:
    aggregator, _ = _open()
    aggregator.accept("site-2", _reply("site-2"))
    assert aggregator.heard == {"site-2": {"enc.cnv": 12, "enc.wsi": 12, "fuse": 16}}


def test_a_server_half_that_breaks_its_own_contract_is_stopped() -> None:
    aggregator, _ = _open()
    aggregator.accept("site-1", _reply("site-1"))
    aggregator._server.state.tensors["enc.cnv.w"] = np.full(3, np.inf, np.float32)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="finite"):
        aggregator.close(1)
