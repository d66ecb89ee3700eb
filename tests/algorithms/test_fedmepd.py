"""FedMEPD's invariants B1, B3, B4, B6, B8, B9 and B12, and a whole run.

B2 and B7 stand in test_fedmepd_baselines, B5, B6 and the bits of B4 in test_personal_filters, B9 in
test_anchors, B10 in test_scan_task and tests/models, B11 and B13 in tests/models and
tests/objectives.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.anchors import ANCHOR, KNOWN, MEMBER, level_name
from polyclinic.algorithms.personal_filters import decoder_of
from polyclinic.algorithms.scan_agreement import TOTAL
from polyclinic.algorithms.scan_training import scan_model, shown
from polyclinic.anchor_site import anchors_fault
from polyclinic.exchange import PERSONAL, State, Tensors, Update, Way
from polyclinic.filters import MASK, WEIGHT, filters_fault
from polyclinic.models.tensors import load
from polyclinic.storage import load_tensors, save_tensors
from scan_federation import (
    HELD,
    PATIENTS,
    PRETRAIN,
    ROUNDS,
    SEQUENCES,
    STUDY,
    WHOLE,
    Recorded,
    a_client,
    a_site,
    an_update,
    filters,
    folded,
    part,
    recorded,
    same,
    start,
    the_sites,
)
from scan_site import ScanSite

FINAL = f"{PERSONAL}final."


def test_b1_an_encoder_is_the_mean_over_its_holders_each_alike() -> None:
    server = fedmepd.Server()
    before, after = folded(
        server,
        h1=an_update(server, ("flair",), 1.0, n=1000.0),
        h2=an_update(server, ("flair", "t1"), 3.0, n=1.0),
    )
    for name, old in part(before.tensors, "enc.").items():
        # flair: (1 + 3) / 2; t1 only h2 holds; t1ce nobody
        moved = {"flair": 2.0, "t1": 3.0, "t1ce": 0.0}[name.split(".")[1]]
        np.testing.assert_allclose(after.tensors[name], old + np.float32(moved), atol=1e-6)
    assert same(part(after.tensors, "enc.t1ce."), part(before.tensors, "enc.t1ce."))


def test_b1_sites_may_be_weighed_by_patients_instead() -> None:
    server = fedmepd.Server(weight="n", **WHOLE)
    before, after = folded(
        server,
        h1=an_update(server, ("flair",), 1.0, n=30.0),
        h2=an_update(server, ("flair",), 3.0, n=10.0),
    )
    for name in part(before.tensors, "enc.flair.", "dec."):  # (30 · 1 + 10 · 3) / 40
        np.testing.assert_allclose(after.tensors[name] - before.tensors[name], 1.5, atol=1e-5)


def test_eq2_a_filter_is_the_weighted_mean_of_its_federated_sites_and_a_part_of_itself() -> None:
    server = fedmepd.Server(kept=0.3)
    mask = np.ones(filters().size, np.uint8)
    mask[0] = 0
    before, after = folded(
        server,
        h1=an_update(server, ("flair",), 2.0, weight=1.0, mask=mask),
        h2=an_update(server, ("t1",), 6.0, weight=3.0),
    )
    layout = filters()
    for name, old in decoder_of(before.tensors).items():
        # .7 (1 · 2 + 3 · 6) / 4 = 3.5, and of filter 0 only h2's: .7 · 6 = 4.2
        rows = np.arange(layout.size)[layout.rows(name)]
        moved = np.where(rows == 0, 4.2, 3.5).reshape(-1, *[1] * (old.ndim - 1))
        np.testing.assert_allclose(after.tensors[name], old + moved, atol=1e-5)


def test_b3_a_filter_that_is_personal_at_all_sites_is_the_servers_own_bit_for_bit() -> None:
    server, layout = fedmepd.Server(), filters()
    mask = np.ones(layout.size, np.uint8)
    mask[::3] = 0
    before, after = folded(
        server,
        h1=an_update(server, ("flair",), 2.0, mask=mask),
        h2=an_update(server, ("t1",), -9.0, mask=mask),
    )
    for name, old in decoder_of(before.tensors).items():
        own = mask[layout.rows(name)] == 0
        assert after.tensors[name][own].tobytes() == old[own].tobytes()
        assert (after.tensors[name][~own] != old[~own]).all()


def test_b4_a_personal_filter_of_a_site_does_not_move_the_server() -> None:
    server, layout = fedmepd.Server(), filters()
    mask = np.ones(layout.size, np.uint8)
    mask[::2] = 0
    both = {"h2": an_update(server, ("t1",), 1.0)}
    _, without = folded(server, **both)
    _, along = folded(server, **both, h1=an_update(server, ("flair",), 5.0, mask=mask))
    for name, alone in decoder_of(without.tensors).items():
        own = mask[layout.rows(name)] == 0
        assert along.tensors[name][own].tobytes() == alone[own].tobytes()
        assert (along.tensors[name][~own] != alone[~own]).all()


def test_eq2_holds_of_what_sites_sent_in_a_round_with_personal_filters(whole: Recorded) -> None:
    done, t, layout = whole.diary.done, ROUNDS, filters()
    before, after = whole.states[t - 1].tensors, whole.diary.given["h3", t].tensors
    sent = [done[site, t].update.tensors for site in ("h1", "h2")]
    assert not all(update[MASK].all() for update in sent)
    for name, old in decoder_of(before).items():
        shape = (-1, *[1] * (old.ndim - 1))
        weights = [u[WEIGHT][layout.rows(name)].reshape(shape).astype(float) for u in sent]
        own = [old + u[name] for u in sent]  # W_j^i
        total = sum(weights)
        mean = sum(h * w for h, w in zip(weights, own, strict=True)) / np.maximum(total, 1e-30)
        expected = np.where(total > 0, 0.3 * old + 0.7 * mean, old)
        np.testing.assert_allclose(after[name], expected, atol=1e-6)


def test_the_anchor_sites_step_adds_its_differences_and_replaces_anchors() -> None:
    server, state = fedmepd.Server(), State(start().tensors, 3)
    contract = server.contract(STUDY)
    names = contract.names_for(SEQUENCES, "anchor")
    update = Update({n: np.full(contract.specs[n].shape, 0.25, np.float32) for n in names})
    old = {n: a.copy() for n, a in state.tensors.items()}
    after = server.absorb(state, update)
    assert after.round == 3
    for name, value in after.tensors.items():
        if name.startswith(ANCHOR):
            assert (value == 0.25).all()
        elif name == TOTAL:
            assert value.tobytes() == old[name].tobytes()
        else:
            np.testing.assert_array_equal(value, old[name] + np.float32(0.25))
    assert same(state.tensors, old)


def test_the_broadcast_is_what_was_folded_and_the_anchor_sites_step(whole: Recorded) -> None:
    for t in range(1, ROUNDS + 1):
        before, sent = whole.diary.given["h3", t], whole.diary.done["h3", t].update.tensors
        assert before.round == whole.states[t].round == t
        for name, value in part(whole.states[t].tensors, "enc.", "dec.").items():
            np.testing.assert_allclose(value, before.tensors[name] + sent[name], atol=1e-6)


def test_b9_anchors_cross_the_wall_by_class_and_slot_and_are_known(whole: Recorded) -> None:
    for t in range(ROUNDS + 1):
        tensors = whole.diary.done["h3", t].update.tensors
        assert tensors[level_name(1)].shape == (4 * 3, 4)  # N_k · C rows of C_l
        assert tensors[level_name(2)].shape == (4 * 3, 8)
        assert tensors[KNOWN].any()
        assert anchors_fault(tensors) == ""


def test_b9_anchors_follow_the_features_and_omega_1_keeps_the_first_renewal(
    whole: Recorded,
) -> None:
    anchors = [part(s.tensors, ANCHOR) for s in whole.states]
    assert not same(anchors[0], anchors[1])
    site, client, personal = a_site("h3"), a_client(omega=1.0), {}
    server, found = fedmepd.Server(), []
    state = start()
    for t in range(4):
        trained = client.anchor(site, state, personal, t)
        state, personal = server.absorb(state, trained.update), trained.personal
        found.append(part(state.tensors, ANCHOR))
    assert not same(found[0], found[1])
    assert same(found[1], found[2])
    assert same(found[2], found[3])


def test_anchors_are_class_means_of_fused_features() -> None:
    # A step of no length leaves the model as it is; one slot a class is the mean over patients.
    site, server = a_site("h3"), fedmepd.Server(slots=1)
    state = server.initial(STUDY)
    client = a_client(slots=1, lr=1e-30, weight_decay=0.0)
    found = client.anchor(site, state, {}, 0).update.tensors

    model = scan_model(STUDY, SEQUENCES, calibrated=False, auxiliary=False)
    model.to_empty(device="cpu")
    load(model, state.tensors)
    means = []
    for batch in site.batches("train", 1):
        inputs, present = shown(batch, SEQUENCES)
        with torch.no_grad():
            feature = model(inputs, present).features[0][0, ..., 0]  # (C_1, I, J), as the mask
        truth = batch.labels[0, ..., 0]
        means.append(torch.stack([feature[:, truth == c].mean(1) for c in range(3)]))
    expected = torch.stack(means).mean(0)
    np.testing.assert_allclose(found[level_name(1)], expected, atol=1e-5)


def test_b12_all_filters_are_federated_and_weigh_1_while_pretraining(whole: Recorded) -> None:
    for t in range(1, PRETRAIN + 2):  # the filters of a round follow from the broadcast before it
        for site in ("h1", "h2"):
            assert whole.diary.mask(site, t).all()
            assert (whole.diary.done[site, t].update.tensors[WEIGHT] == 1.0).all()
    assert not all(whole.diary.mask(site, ROUNDS).all() for site in ("h1", "h2"))


def test_b6_a_filter_that_is_personal_stays_personal(whole: Recorded) -> None:
    for site in ("h1", "h2"):
        for t in range(2, ROUNDS + 1):
            assert (whole.diary.mask(site, t) <= whole.diary.mask(site, t - 1)).all()


def test_eq4_masks_and_weights_follow_from_two_broadcasts_and_own_training(
    whole: Recorded,
) -> None:
    layout, t = filters(), ROUNDS
    server = {n: a - whole.states[t - 2].tensors[n] for n, a in whole.states[t - 1].tensors.items()}
    seen = set()
    for site in ("h1", "h2"):
        before, now = (whole.diary.done[site, r].update.tensors for r in (t - 1, t))
        share = PATIENTS[site] / (PATIENTS["h1"] + PATIENTS["h2"])
        for conv, rows in layout.slices.items():
            for k, j in enumerate(range(rows.start, rows.stop)):
                if not before[MASK][j]:
                    continue
                a, b = (x[f"{conv}.weight"][k].astype(float).ravel() for x in (server, before))
                if abs(a @ b) < 1e-12:
                    continue
                assert now[MASK][j] == (a @ b > 0)  # patience 1: the first disagreement
                seen.add(int(now[MASK][j]))
                ratio = min(np.linalg.norm(a) / np.linalg.norm(b), 10.0)
                weight = 0.95 * before[WEIGHT][j] + 0.05 * ratio * share
                wanted = weight if now[MASK][j] else 0.0
                assert now[WEIGHT][j] == pytest.approx(wanted, rel=1e-4)
    assert seen == {0, 1}


def test_what_is_sent_tells_nothing_of_personal_filters(whole: Recorded) -> None:
    for (site, _), trained in whole.diary.done.items():
        if site != "h3":
            assert filters_fault(trained.update.tensors) == ""


def with_personal_filters(own: np.ndarray) -> tuple[ScanSite, Tensors, Tensors]:
    """A site after a round, of which it kept these filters; its memory and its decoder."""
    site = a_site("h2")
    personal = a_client().train(site, start(), {}, 1).personal
    patience = personal[f"{PERSONAL}filter.patience"].copy()
    patience[own] = 0
    place = f"{PERSONAL}filter.own."
    decoder = {n.removeprefix(place): a for n, a in part(personal, place).items()}
    return site, personal | {f"{PERSONAL}filter.patience": patience}, decoder


def test_b4_a_personal_filter_survives_a_restart_and_a_download_bit_for_bit(
    tmp_path: Path,
) -> None:
    layout, own = filters(), np.arange(0, 200, 3)
    site, personal, before = with_personal_filters(own)
    sha256 = save_tensors(tmp_path / "personal", personal)
    found = load_tensors(tmp_path / "personal", sha256)
    other = {n: a + np.float32(0.5) for n, a in decoder_of(start().tensors).items()}
    state = State(start().tensors | other, 1)

    later = a_client(epochs=0).train(site, state, found, 2).personal
    mask = np.ones(layout.size, bool)
    mask[own] = False
    for name, value in before.items():
        now, shared = later[f"{PERSONAL}filter.own.{name}"], mask[layout.rows(name)]
        assert now[~shared].tobytes() == value[~shared].tobytes()
        assert now[shared].tobytes() == other[name][shared].tobytes()


def test_b4_a_personal_filter_goes_on_learning_and_sends_nothing() -> None:
    layout, own = filters(), np.arange(0, 200, 3)
    site, personal, before = with_personal_filters(own)
    trained = a_client().train(site, State(start().tensors, 1), personal, 2)
    assert np.flatnonzero(trained.update.tensors[MASK] == 0).tolist() == own.tolist()
    moved = 0
    for name, value in before.items():
        mine = np.isin(np.arange(layout.size)[layout.rows(name)], own)
        sent = trained.update.tensors[name][mine]
        assert sent.tobytes() == np.zeros_like(sent).tobytes()
        now = trained.personal[f"{PERSONAL}filter.own.{name}"]
        moved += int((now[mine] != value[mine]).sum())
    assert moved
    assert trained.metrics["filters/personal"] == pytest.approx(len(own) / layout.size)


def test_b8_what_is_a_sites_own_is_in_no_update(whole: Recorded) -> None:
    contract = fedmepd.Server().contract(STUDY)
    for (site, _), trained in whole.diary.done.items():
        way: Way = "anchor" if site == "h3" else "train"
        assert trained.update.tensors.keys() == contract.names_for(HELD[site], way)
        assert not part(trained.update.tensors, "calib.", "aux.", PERSONAL)
        kept = {n.split(".")[1] for n in trained.personal}
        assert kept == {"adam", "aux"} | ({"anchor"} if site == "h3" else {"calib", "filter"})
        assert all(n.startswith(PERSONAL) for n in trained.personal)


def test_the_number_of_training_patients_is_told_to_all() -> None:
    server = fedmepd.Server()
    update = {f"h{i}": an_update(server, ("flair",), n=n) for i, n in enumerate((3.0, 7.0, 0.0))}
    assert folded(server, **update)[1].tensors[TOTAL].tolist() == [10.0]


def test_neither_a_restart_nor_the_order_of_sites_changes_a_bit(
    whole: Recorded, tmp_path: Path
) -> None:
    sites = dict(reversed(the_sites().items()))
    again = recorded(sites, disk=tmp_path / "personal.safetensors")
    assert same(again.result.state.tensors, whole.result.state.tensors)
    for site, personal in whole.result.personal.items():
        assert same(again.result.personal[site], personal)


def test_training_together_lowers_the_loss(whole: Recorded) -> None:
    first, last = whole.result.metrics[0], whole.result.metrics[ROUNDS - 1]
    assert all(last[site]["train/loss"] < first[site]["train/loss"] for site in first)


def test_the_anchor_site_trains_no_other_way_and_has_the_global_model(whole: Recorded) -> None:
    assert {site for site, t in whole.diary.done if t == 1} == {"h1", "h2", "h3"}
    assert "h3" not in whole.result.metrics[0]
    kept = whole.result.personal["h3"]
    assert MEMBER in kept
    found = a_client().predict(a_site("h3"), whole.result.state, kept, "test")
    for name, value in part(found, "dice/personal/").items():
        np.testing.assert_array_equal(found[name.replace("personal", "global")], value)


@pytest.mark.parametrize("t", [PRETRAIN + 1, ROUNDS])
def test_a_site_ends_with_its_own_filters_over_the_last_download(whole: Recorded, t: int) -> None:
    state, personal = whole.states[t], whole.diary.done["h2", t].personal
    client = replace(whole.diary.client, final_epochs=0)
    kept = client.finalise(a_site("h2"), state, personal).personal
    for name in part(state.tensors, "enc.flair.", "enc.t1."):
        assert kept[FINAL + name].tobytes() == state.tensors[name].tobytes()
    before, now = 0, 0
    for name, value in decoder_of(state.tensors).items():
        found, own = kept[FINAL + name], personal[f"{PERSONAL}filter.own.{name}"]
        was_personal = whole.diary.mask("h2", t)[filters().rows(name)] == 0
        personal_now = (found != value).reshape(len(found), -1).any(1)
        # A row is the server's or the site's, never a mixture.
        assert found[personal_now].tobytes() == own[personal_now].tobytes()
        assert (personal_now >= was_personal).all()
        before, now = before + int(was_personal.sum()), now + int(personal_now.sum())
    assert bool(before) == (t == ROUNDS)
    assert now  # what the last broadcast tells counts, too


def test_what_a_site_trains_after_the_last_download_stays_there(whole: Recorded) -> None:
    state, personal = whole.states[-1], whole.diary.done["h2", ROUNDS].personal
    done = [
        replace(whole.diary.client, final_epochs=n).finalise(a_site("h2"), state, personal)
        for n in (0, 1)
    ]
    assert [trained.update for trained in done] == [Update({})] * 2
    kept, further = (part(trained.personal, FINAL) for trained in done)
    assert all(kept[n].tobytes() != further[n].tobytes() for n in kept if n.endswith(".weight"))
    assert same(further, part(whole.result.personal["h2"], FINAL))
    assert not part(further, f"{FINAL}aux.")


def test_anchors_change_how_a_site_reads(whole: Recorded) -> None:
    state = whole.states[1]
    forgot = State(state.tensors | {KNOWN: np.zeros_like(state.tensors[KNOWN])}, 1)
    losses = [
        a_client().train(a_site("h2"), s, {}, 2).metrics["train/loss"] for s in (state, forgot)
    ]
    assert losses[0] != losses[1]
