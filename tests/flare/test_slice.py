"""A site sees the groups it holds, and cannot write to the state."""

import numpy as np
import pytest

from flare.counting import HELD, STUDY, CountingServer
from polyclinic.flare.slice import SliceForSite
from polyclinic.study import parse_study


def _slices() -> tuple[SliceForSite, CountingServer]:
    server = CountingServer()
    contract = server.contract(parse_study(STUDY))
    return SliceForSite(contract, {s: tuple(m) for s, m in HELD.items()}), server


def test_a_site_gets_its_groups_and_no_others() -> None:
    slices, server = _slices()
    state = server.initial(parse_study(STUDY))
    assert sorted(slices.of(state, "site-1").tensors) == ["enc.wsi.w", "fuse.w"]
    assert sorted(slices.of(state, "site-3").tensors) == ["enc.cnv.w", "fuse.w"]
    assert sorted(state.tensors) == ["enc.cnv.w", "enc.wsi.w", "fuse.w"]


def test_one_sites_slice_cannot_change_anothers() -> None:
    slices, server = _slices()
    state = server.initial(parse_study(STUDY))
    cut = slices.of(state, "site-1")
    with pytest.raises(ValueError, match="read-only"):
        cut.tensors["fuse.w"][0, 0] = 9.0
    assert np.count_nonzero(state.tensors["fuse.w"]) == 0
    assert state.tensors["fuse.w"].flags.writeable


def test_a_site_without_a_census_has_no_slice() -> None:
    slices, server = _slices()
    with pytest.raises(KeyError):
        slices.of(server.initial(parse_study(STUDY)), "site-9")
