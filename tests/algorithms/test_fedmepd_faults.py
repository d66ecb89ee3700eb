"""FedMEPD with what goes wrong: updates, patients, classes, cohorts and rounds."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.anchors import ANCHOR, KNOWN, MEMBER, NOBODY
from polyclinic.algorithms.scan_agreement import TOTAL
from polyclinic.anchor_site import anchors_fault
from polyclinic.comparison import run_federation
from polyclinic.data.batch import SplitName
from polyclinic.errors import ContractViolation, TrainingDiverged
from polyclinic.exchange import PERSONAL, Update
from polyclinic.filters import MASK, WEIGHT
from scan_federation import (
    ROUNDS,
    SEQUENCES,
    STUDY,
    Recorded,
    a_client,
    a_site,
    an_update,
    part,
    same,
    start,
    the_sites,
)
from scan_site import ScanSite


def bad(update: Update, how: str) -> Update:
    """The update with a fault."""
    tensors = {n: a.copy() for n, a in update.tensors.items()}
    if how == "no mask":
        del tensors[MASK]
    elif how == "no weights":
        del tensors[WEIGHT]
    elif how == "a personal row":
        tensors[MASK][0] = 0
    elif how == "a negative weight":
        tensors[WEIGHT][0] = -1.0
    elif how == "a short mask":
        tensors[MASK] = tensors[MASK][1:]
    elif how == "half a decoder":
        del tensors[next(n for n in tensors if n.startswith("dec.") and n.endswith(".weight"))]
    elif how == "an unknown name":
        tensors["dec.more.weight"] = np.zeros((1, 1), np.float32)
    return Update(tensors, {} if how == "no count" else update.scalars)


@pytest.mark.parametrize(
    "how",
    [
        "no mask",
        "no weights",
        "a personal row",
        "a negative weight",
        "a short mask",
        "half a decoder",
        "an unknown name",
        "no count",
    ],
)
def test_an_update_with_a_fault_is_refused_whole(how: str) -> None:
    server, before = fedmepd.Server(), start()
    server.begin(STUDY, before, 1)
    with pytest.raises(ContractViolation):
        server.accept("h1", bad(an_update(server, ("flair",), 1.0), how))
    after = server.finish()
    assert same(after.tensors, before.tensors)
    assert after.round == 1


def test_a_site_counts_once_a_round() -> None:
    server = fedmepd.Server()
    server.begin(STUDY, start(), 1)
    server.accept("h1", an_update(server, ("flair",), 1.0))
    with pytest.raises(ContractViolation):
        server.accept("h1", an_update(server, ("flair",), 9.0))
    assert server.finish().tensors[TOTAL].tolist() == [4.0]


def test_missing_sequences_classes_and_numbers_leave_everything_finite() -> None:
    sites = {
        "h1": a_site("h1", classes=(1,)),
        "h2": a_site("h2", lacks=(("t1", 0), ("flair", 1)), nan_row=2),
        "h3": a_site("h3", lacks=(("t1ce", 0),), nan_row=1),
        "h4": replace(a_site("h1", classes=()), site="h4"),
    }
    client = a_client(patience=1, pretrain=0, validate_every=1)
    result = run_federation(sites, client, fedmepd.Server(), STUDY, 2, anchor="h3")
    assert all(np.isfinite(a).all() for a in result.state.tensors.values())
    for site, personal in result.personal.items():
        assert all(np.isfinite(a).all() for a in personal.values())
        rounds = [heard[site] for heard in result.metrics[:2] if site in heard]
        skipped = [heard.get("quarantined/non_finite", 0.0) for heard in rounds]
        assert skipped == ([] if site == "h3" else [float(site == "h2")] * 2)
    assert (result.personal["h3"][MEMBER][1] == NOBODY).all()
    for heard in result.metrics[:2]:
        assert "validation/dice/personal/wt/flair+t1" in heard["h2"]
    for name, found in client.predict(
        sites["h2"], result.state, result.personal["h2"], "test"
    ).items():
        assert found.shape == (3,)
        assert name.startswith("hd95") or np.isfinite(found).all()


def test_of_single_patients_a_number_that_is_not_finite_costs_its_own_step() -> None:
    trained = a_client(batch_size=1).train(a_site("h2", nan_row=0), start(), {}, 1)
    assert trained.metrics["quarantined/non_finite"] == 1
    assert all(np.isfinite(a).all() for a in trained.update.tensors.values())


def test_an_epoch_in_which_nobody_has_a_finite_loss_ends_the_training() -> None:
    site, state = a_site("h2", nan_row=0, patients=1), start()
    with pytest.raises(TrainingDiverged):
        a_client(batch_size=1).train(site, state, {}, 1)


def test_a_class_that_the_anchor_site_never_shows_has_no_anchor() -> None:
    found = a_client().anchor(a_site("h3", classes=(1,)), start(), {}, 0).update.tensors
    assert found[KNOWN].reshape(3, 4).any(1).tolist() == [True, True, False]
    assert anchors_fault(found) == ""


@pytest.mark.parametrize("cell", [1, 3, 5])
def test_an_anchor_has_a_cell_of_patients_behind_it_or_is_not_known(cell: int) -> None:
    site = a_site("h3", minimum_cell=cell)
    trained = a_client().anchor(site, start(), {}, 0)
    member = trained.personal[MEMBER]
    sizes = np.array([[(member[:, c] == k).sum() for k in range(4)] for c in range(3)])
    known = trained.update.tensors[KNOWN].reshape(3, 4) == 1
    assert (sizes[known] >= cell).all()
    assert known.any() == (cell <= 4)
    assert anchors_fault(trained.update.tensors) == ""


def test_a_patient_who_lacks_a_sequence_is_behind_no_anchor() -> None:
    site = a_site("h3", lacks=(("t1", 1), ("flair", 3)))
    trained = a_client().anchor(site, start(), {}, 0)
    assert (trained.personal[MEMBER][[1, 3]] == NOBODY).all()
    assert (trained.personal[MEMBER][[0, 2]] != NOBODY).all()
    few = replace(site, minimum_cell=3)  # four patients, of whom two are complete
    assert not a_client().anchor(few, start(), {}, 0).update.tensors[KNOWN].any()


@dataclass(frozen=True)
class TwiceScanned(ScanSite):
    """Every patient has two scans."""

    def distinct(self, split: SplitName, modality: str | None = None) -> int:
        return self.size(split) // 2


def test_several_scans_of_a_patient_do_not_make_a_cell() -> None:
    site = TwiceScanned("h3", STUDY, SEQUENCES, patients=4, minimum_cell=3)
    found = a_client().anchor(site, start(), {}, 0).update.tensors
    assert not found[KNOWN].any()  # four scans, but of two patients


def test_without_a_known_anchor_a_site_trains_as_without_calibration() -> None:
    cells = the_sites("h2", "h3")
    cells["h3"] = replace(cells["h3"], minimum_cell=100)
    client = a_client()
    step = client.anchor(cells["h3"], start(), {}, 0)
    state = fedmepd.Server().absorb(start(), step.update)
    assert not state.tensors[KNOWN].any()
    assert not any(a.any() for a in part(state.tensors, ANCHOR).values())
    plain = a_client(calibrated=False).train(cells["h2"], state, {}, 1)
    ours = client.train(cells["h2"], state, {}, 1)
    assert same(ours.update.tensors, plain.update.tensors)
    assert not part(plain.personal, f"{PERSONAL}calib.")
    assert not part(ours.personal, f"{PERSONAL}adam.calib.")


def test_another_cohort_at_the_anchor_site_starts_its_clusters_anew(whole: Recorded) -> None:
    site = a_site("h3", patients=6)
    kept = whole.diary.done["h3", ROUNDS].personal
    trained = whole.diary.client.anchor(site, whole.states[-1], kept, ROUNDS + 1)
    assert trained.personal[MEMBER].shape == (6, 3)
    assert trained.personal[f"{PERSONAL}anchor.renewals"].tolist() == [1]


def test_a_site_that_missed_rounds_counts_none_of_them(whole: Recorded) -> None:
    site, place = a_site("h2"), f"{PERSONAL}filter."
    personal = whole.diary.done["h2", ROUNDS - 2].personal  # its last before two it missed
    trained = whole.diary.client.train(site, whole.states[-1], personal, ROUNDS + 1)
    for what in ("patience", "weight"):
        assert trained.personal[place + what].tobytes() == personal[place + what].tobytes()
    assert trained.personal[f"{place}round"].tolist() == [ROUNDS]
