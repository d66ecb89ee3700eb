"""What FedMEPD is with its parts switched off: B2, B7, FedMEMA, FedAvg and local training."""

from dataclasses import replace

import numpy as np
import torch

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.anchors import KNOWN
from polyclinic.algorithms.personal_filters import decoder_of
from polyclinic.algorithms.presets_scan import SCANS
from polyclinic.algorithms.scan_training import scan_model
from polyclinic.algorithms.wire import INITIAL
from polyclinic.comparison import run_federation
from polyclinic.exchange import PERSONAL, STORE
from polyclinic.filters import WEIGHT
from polyclinic.models.tensors import tensors_of
from polyclinic.objectives.segmentation import segmentation_loss
from polyclinic.training import initialise, seeded
from scan_federation import (
    ALONE,
    HELD,
    NOT_ANCHORED,
    STUDY,
    WHOLE,
    Diary,
    a_client,
    a_site,
    an_update,
    folded,
    part,
    same,
    the_sites,
)


def test_b2_recovers_fedavg_without_personal_filters_and_memory_at_the_server() -> None:
    sites, rounds = the_sites("h1", "h2"), 2
    diary = Diary(a_client(pretrain=10**6, **NOT_ANCHORED))
    server = fedmepd.Server(kept=0.0, **NOT_ANCHORED)
    partial = run_federation(sites, diary, server, STUDY, rounds)
    plain = run_federation(sites, a_client(**WHOLE), fedmepd.Server(**WHOLE), STUDY, rounds)
    for name, value in plain.state.tensors.items():
        np.testing.assert_allclose(partial.state.tensors[name], value, atol=1e-6)

    before = diary.given["h2", rounds].tensors
    first, second = (diary.done[site, rounds].update.tensors for site in ("h1", "h2"))
    for name in decoder_of(before):
        mean = ((before[name] + first[name]) + (before[name] + second[name])) / 2
        np.testing.assert_allclose(partial.state.tensors[name], mean, atol=1e-6)


def test_as_published_it_is_not_fedavg_without_personal_filters_either() -> None:
    server = fedmepd.Server(**NOT_ANCHORED)
    updates = {site: an_update(server, HELD[site], delta) for site, delta in (("h1", 1), ("h2", 3))}
    before, after = folded(server, **updates)
    for name, old in decoder_of(before.tensors).items():
        # FedAvg moves by (1 + 3) / 2; the server keeps .3 of its own filter: .7 · 2
        np.testing.assert_allclose(after.tensors[name] - old, 1.4, atol=1e-6)


def test_b7_patience_0_is_the_personal_decoder_of_fedmema() -> None:
    sites = the_sites("h1", "h2")
    diary = Diary(a_client(patience=0, **NOT_ANCHORED))
    server = fedmepd.Server(**NOT_ANCHORED)
    ours = run_federation(sites, diary, server, STUDY, 2)
    wholly = {"anchored": False, "decoder": "personal"}
    mema = run_federation(sites, a_client(**wholly), fedmepd.Server(**wholly), STUDY, 2)

    assert same(part(ours.state.tensors, "enc."), part(mema.state.tensors, "enc."))
    for site in sites:
        assert not diary.mask(site, 1).any()
        assert not diary.done[site, 1].update.tensors[WEIGHT].any()
        finals = (part(r.personal[site], f"{PERSONAL}final.") for r in (ours, mema))
        assert same(*finals)
    # All filters are personal everywhere: the server's decoder is its own.
    assert same(decoder_of(ours.state.tensors), decoder_of(server.initial(STUDY).tensors))


def test_fedmema_keeps_decoders_and_gets_that_of_the_anchor_site() -> None:
    client, server = SCANS["fedmema"].halves()
    assert isinstance(client, fedmepd.Client)
    assert isinstance(server, fedmepd.Server)
    assert client.slots == server.slots == 3
    diary = Diary(replace(client, final_epochs=0))
    result = run_federation(the_sites("h2", "h3"), diary, server, STUDY, 2, anchor="h3")
    sent = diary.done["h2", 2]
    assert not part(sent.update.tensors, "dec.", STORE)
    assert part(sent.personal, f"{PERSONAL}dec.")
    assert not part(sent.personal, f"{PERSONAL}adam.")
    before, after = (decoder_of(diary.given[site, 2].tensors) for site in ("h2", "h3"))
    assert same(before, after)  # folded, before the anchor site's step
    assert not same(after, decoder_of(result.state.tensors))
    assert result.state.tensors[KNOWN].shape == (3 * 3,)


def test_with_zeros_for_absent_sequences_every_site_exchanges_one_network() -> None:
    settings = WHOLE | {"zero_fill": True}
    client, server = a_client(**settings), fedmepd.Server(**settings)
    contract = server.contract(STUDY)
    assert contract.names_for(()) == contract.specs.keys()
    site = a_site("h1")
    state = server.initial(STUDY)
    trained = client.train(site, state, {}, 1)
    assert trained.update.tensors.keys() == state.tensors.keys()
    # Nobody at h1 has a t1ce: its encoder is averaged as it was, which dilutes that of others.
    assert not any(a.any() for a in part(trained.update.tensors, "enc.t1ce.").values())
    assert any(a.any() for a in part(trained.update.tensors, "enc.flair.").values())


def test_local_training_sends_nothing_and_equals_a_federation_of_one() -> None:
    client, server = a_client(**ALONE), fedmepd.Server(**ALONE)
    sites, diary = the_sites("h1", "h2"), Diary(client)
    together = run_federation(sites, diary, server, STUDY, 2)
    assert together.state.tensors == {}
    assert all(trained.update.tensors == {} for trained in diary.done.values())
    alone = run_federation({"h2": sites["h2"]}, client, fedmepd.Server(**ALONE), STUDY, 2)
    assert same(alone.personal["h2"], together.personal["h2"])
    found = client.predict(sites["h2"], together.state, together.personal["h2"], "test")
    assert {n.split("/")[1] for n in found if not n.startswith("there/")} == {"personal"}


def test_a_federation_of_one_site_is_training_at_that_site() -> None:
    site, rounds = a_site("h2"), 3
    client = a_client(**WHOLE)
    result = run_federation({"h2": site}, client, fedmepd.Server(**WHOLE), STUDY, rounds)

    model = scan_model(STUDY, HELD["h2"], calibrated=False, auxiliary=True)
    model.to_empty(device="cpu")
    initialise(model, ["enc.flair", "enc.t1", "dec", "aux"], STUDY.seed, INITIAL)
    optimiser = torch.optim.Adam(model.parameters(), lr=client.lr, weight_decay=client.weight_decay)
    model.train()
    for t in range(1, rounds + 1):
        with seeded(STUDY.seed, "h2", t, "train") as generator:
            for batch in site.batches("train", client.batch_size, generator):
                optimiser.zero_grad()
                output = model(batch.inputs, batch.present)
                segmentation_loss(output, batch.labels, batch.present).mean().backward()
                optimiser.step()
    # A bias before a normalisation has no gradient but rounding, of which Adam makes a step.
    weights = {n: a for n, a in tensors_of(model).items() if n.endswith(".weight")}
    for name, value in part(weights, "enc.", "dec.").items():
        np.testing.assert_allclose(result.state.tensors[name], value, atol=1e-5)
