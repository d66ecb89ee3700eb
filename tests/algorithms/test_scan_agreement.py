"""What the halves agree on: the names of every way at the wall, their bytes, and settings."""

import numpy as np
import pytest

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.presets_scan import SCANS
from polyclinic.errors import StudyError
from polyclinic.exchange import STORE
from polyclinic.filters import MASK
from polyclinic.study import Study, parse_study
from scan_federation import ALONE, HELD, SEQUENCES, STUDY, WHOLE, Recorded
from scan_site import scan_study


@pytest.mark.parametrize(
    ("settings", "state", "train", "anchor"),
    [
        ({}, {"enc", "dec", "anchor", "total"}, {"enc", "dec", "filter"}, {"enc", "dec", "anchor"}),
        ({"anchored": False}, {"enc", "dec", "total"}, {"enc", "dec", "filter"}, set()),
        (WHOLE, {"enc", "dec"}, {"enc", "dec"}, set()),
        (
            {"decoder": "personal"},
            {"enc", "dec", "anchor"},
            {"enc"},
            {"enc", "dec", "anchor"},
        ),
        (ALONE, set(), set(), set()),
    ],
)
def test_every_way_carries_what_it_says(
    settings: dict[str, object], state: set[str], train: set[str], anchor: set[str]
) -> None:
    client, server = fedmepd.Client(**settings), fedmepd.Server(**settings)
    contract = client.contract(STUDY)
    assert contract == server.contract(STUDY)
    for way, expected in (("state", state), ("train", train), ("anchor", anchor)):
        names = contract.only(way).specs
        assert {n.removeprefix(STORE).split(".")[0] for n in names} == expected
    assert server.initial(STUDY).tensors.keys() == contract.names_for(SEQUENCES, "state")
    assert server.wants_anchor == bool(anchor)
    for held in (("t1",), ("flair", "t1ce")):
        told = {n.split(".")[1] for n in contract.names_for(held) if n.startswith("enc.")}
        assert told == (set(held) if "enc" in train else set())


def published_study() -> Study:
    """Four sequences and four classes at the published size."""
    names = ("flair", "t1", "t1ce", "t2")
    return parse_study(
        {
            "name": "brats",
            "task": {
                "mask": {
                    "classes": ["background", "core", "oedema", "enhancing"],
                    "regions": {"wt": ["core", "oedema", "enhancing"]},
                }
            },
            "modalities": {m: {"kind": "volume", "features": [m]} for m in names},
            "scans": {"recipe": {}, "network": {}},
        }
    )


def test_a_round_costs_what_must_be_sent_and_no_fiftieth_more() -> None:
    contract = fedmepd.Server().contract(published_study())
    assert contract.specs[MASK].nbytes == contract.specs[MASK].shape[0] == 4092
    anchors = 4 * 4 * 4 * (16 + 32 + 64 + 128)  # bytes · N_k · C · ΣC_l
    filters_told = 4092 * (1 + 4)  # a byte of mask, four of weight
    for held in (("t1",), ("flair", "t1"), ("flair", "t1", "t1ce", "t2")):
        model = 4 * (len(held) * 1_466_496 + 2_532_588)  # the published encoder and decoder
        least = 2 * model + anchors + filters_told
        sent = sum(contract.nbytes_for(held, way) for way in ("state", "train"))
        assert least <= sent <= 1.02 * least
        assert contract.nbytes_for(held, "train") == model + filters_told


def test_an_update_weighs_what_the_contract_says(whole: Recorded) -> None:
    contract = fedmepd.Server().contract(STUDY)
    for site in ("h1", "h2"):
        update = whole.diary.done[site, 1].update
        assert update.nbytes == contract.nbytes_for(HELD[site], "train")
        assert update.tensors[MASK].dtype == np.uint8


@pytest.mark.parametrize("name", sorted(SCANS))
def test_both_halves_of_a_method_agree(name: str) -> None:
    client, server = SCANS[name].halves()
    assert client.contract(STUDY) == server.contract(STUDY)


@pytest.mark.parametrize(
    "settings",
    [
        {"patience": -1},
        {"patience": 1.5},
        {"pretrain": -1},
        {"final_epochs": -1},
        {"weight_memory": 1.1},
        {"omega": -0.1},
        {"matching": "closest"},
        {"encoder": "shared"},
        {"decoder": "none"},
        {"slots": 0},
        {"slots": 17},
        {"slots": 2.0},
        {"anchored": True, "encoder": "personal", "decoder": "personal"},
        {"decoder": "federated", "encoder": "personal", "anchored": False},
        {"decay_power": -1.0},
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, object]) -> None:
    with pytest.raises(StudyError, match=next(iter(settings))):
        fedmepd.Client(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"kept": 1.0}, {"kept": -0.1}, {"weight": "n_i"}])
def test_a_setting_of_the_server_out_of_range_is_named(settings: dict[str, object]) -> None:
    with pytest.raises(StudyError, match=next(iter(settings))):
        fedmepd.Server(**settings)  # type: ignore[arg-type]


def test_a_job_that_would_make_a_site_allocate_too_many_weights_is_refused_at_once() -> None:
    study = scan_study(
        sequences=tuple(f"s{i}" for i in range(16)), levels=5, width=64, size=(32, 32, 1)
    )
    for half in (fedmepd.Client(), fedmepd.Server()):
        with pytest.raises(StudyError, match="million weights"):
            half.contract(study)
