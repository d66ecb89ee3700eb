"""A trained model reads whole stacks: B10, maps and their scores, before and after the end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.anchors import KNOWN
from polyclinic.algorithms.scan_training import network_of
from polyclinic.comparison import run_federation
from polyclinic.exchange import PERSONAL, State, Tensors
from scan_federation import (
    PRETRAIN,
    ROUNDS,
    SEQUENCES,
    STUDY,
    Recorded,
    a_client,
    a_site,
    part,
    same,
)
from scan_site import ScanSite, scan_study


@pytest.fixture
def scanned(whole: Recorded) -> tuple[ScanSite, State, Tensors]:
    """A site with the state it received and what it keeps; a test patient lacks t1."""
    site = a_site("h2", lacks=(("t1", 0),))
    contract = fedmepd.Server().contract(STUDY)
    state = whole.result.state.restricted(contract.names_for(site.modalities, "state"))
    return site, state, whole.result.personal["h2"]


def test_a_map_is_what_is_scored(scanned: tuple[ScanSite, State, Tensors]) -> None:
    site, state, personal = scanned
    client = a_client(subsets=True)
    found = client.predict(site, state, personal, "test")
    for row, batch in enumerate(site.batches("test", 1)):
        truth = batch.labels[0].numpy() > 0
        for model in ("personal", "global"):
            for subset in ("flair", "t1", "flair+t1"):
                scored = found[f"dice/{model}/wt/{subset}"][row]
                chosen = tuple(subset.split("+"))
                if (row, subset) == (0, "t1"):
                    assert np.isnan(scored)
                    continue
                classes = client.segment(
                    batch, STUDY, state, personal, model=model, sequences=chosen
                )
                assert classes.dtype == torch.uint8
                assert classes.shape == batch.labels.shape[1:]
                told = classes.numpy() > 0
                size = truth.sum() + told.sum()
                assert scored == pytest.approx(2 * (truth & told).sum() / size if size else 1.0)


@pytest.mark.parametrize("garbage", [1e6, float("nan")])
def test_b10_what_stands_in_an_absent_sequence_does_not_matter(
    scanned: tuple[ScanSite, State, Tensors], garbage: float
) -> None:
    site, state, personal = scanned
    dirty, client = replace(site, garbage=garbage), a_client(subsets=True)
    clean, found = (client.predict(s, state, personal, "test") for s in (site, dirty))
    assert same(found, clean)
    one, other = (next(s.batches("test", 1)) for s in (site, dirty))
    assert not bool(one.present["t1"])
    assert torch.equal(
        client.segment(one, STUDY, state, personal), client.segment(other, STUDY, state, personal)
    )
    # Nor does it in training.
    learned = (a_client().train(s, state, {}, ROUNDS + 1).update.tensors for s in (site, dirty))
    assert same(*learned)


def test_the_whole_state_reads_as_the_part_that_a_site_received(
    whole: Recorded, scanned: tuple[ScanSite, State, Tensors]
) -> None:
    site, state, personal = scanned
    batch = next(site.batches("test", 1))
    for model in ("personal", "global"):
        one, other = (
            a_client().segment(batch, STUDY, s, personal, model=model)
            for s in (state, whole.result.state)
        )
        assert torch.equal(one, other)


def test_a_site_can_predict_before_it_finalises(whole: Recorded) -> None:
    site, state = a_site("h2"), whole.states[PRETRAIN - 1]
    personal = whole.diary.done["h2", PRETRAIN - 1].personal
    client = replace(whole.diary.client, final_epochs=0)
    before = client.predict(site, state, personal, "test")
    done = client.finalise(site, state, personal).personal
    assert same(client.predict(site, state, done, "test"), before)
    assert client.predict(site, state, {}, "test").keys() == before.keys()


def test_what_was_finished_for_another_round_is_not_read(whole: Recorded) -> None:
    site, personal = a_site("h2"), whole.result.personal["h2"]
    client, state = whole.diary.client, whole.states[-1]
    final = f"{PERSONAL}final."
    batch = next(site.batches("test", 1))
    wrong = personal | {n: a + np.float32(9.0) for n, a in part(personal, final).items()}
    maps = {
        t: [client.segment(batch, STUDY, State(state.tensors, t), p) for p in (personal, wrong)]
        for t in (ROUNDS, ROUNDS + 1)
    }
    assert torch.equal(*maps[ROUNDS + 1])
    assert not torch.equal(*maps[ROUNDS])


def test_volumes_are_trained_like_slices() -> None:
    study = scan_study(levels=2, size=(8, 8, 8))
    assert network_of(study).dims == 3
    sites = {
        name: ScanSite(name, study, held, patients=2, seed=i)
        for i, (name, held) in enumerate((("h2", ("flair", "t1")), ("h3", SEQUENCES)))
    }
    client = a_client(patience=1, pretrain=0, batch_size=2)
    result = run_federation(sites, client, fedmepd.Server(), study, 2, anchor="h3")
    assert all(np.isfinite(a).all() for a in result.state.tensors.values())
    assert result.state.tensors[KNOWN].any()
    batch = next(sites["h2"].batches("test", 1))
    classes = client.segment(batch, study, result.state, result.personal["h2"])
    assert classes.shape == (8, 8, 8)
