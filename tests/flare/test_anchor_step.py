"""The step between rounds: who does it, what becomes of it, and what the ledger says."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.shareable import Shareable

from flare.anchoring import (
    HELD,
    Hospital,
    Patients,
    everywhere,
    expected,
    hospitals,
    last,
    poisoned,
    stepped,
    steps,
)
from flare.plugins import stepping
from flare.ward import Ward, error, of_kind, silence
from polyclinic.comparison import run_federation
from polyclinic.errors import StudyError
from polyclinic.flare.convert import ANCHOR, EVALUATE, FINALISE, TRAIN

SITES = tuple(HELD)
OTHERS = ["site-1", "site-3", "site-4"]


def test_the_anchor_site_trains_after_every_round_and_in_none(tmp_path: Path) -> None:
    ward = Ward(tmp_path, hospitals())
    records = ward.run(stepped(2))
    kinds = ["start", "census", "anchor", "round", "round", "finalise", "evaluate", "end"]
    assert [r["kind"] for r in records] == kinds
    rounds = of_kind(records, "round")
    assert [r["heard"] for r in rounds] == [OTHERS] * 2
    assert [(s["status"], s["site"]) for s in steps(records)] == [("absorbed", "site-2")] * 3
    asked = [(ANCHOR, 0), (ANCHOR, 1), (ANCHOR, 2), (FINALISE, 2), (EVALUATE, 2)]
    assert ward.sites["site-2"].asked == asked
    assert of_kind(records, "evaluate")[0]["heard"] == list(SITES)
    assert of_kind(records, "census")[0]["anchor"] == "site-2"
    assert of_kind(records, "census")[0]["sites"]["site-2"]["anchor"] is True


def test_the_numbers_are_those_of_rounds_and_steps(tmp_path: Path) -> None:
    ward = Ward(tmp_path, hospitals())
    ward.run(stepped(2))
    end = last(ward)
    # 10 before round 1, then 1 + 11 and 1 + 12; filter 0 is federated in the first round only.
    assert everywhere(end, "enc.", 10 + 12 + 13)
    assert end["dec.a.bias"].tolist() == [34.0, 35.0]
    assert end["dec.a.weight"][:, 0].tolist() == [34.0, 35.0]
    assert end["dec.b.weight"].tolist() == [[35.0, 35.0]]
    assert end["store.anchor.l1"].tolist() == [[3.0, 3.0], [0.0, 0.0]]
    assert end["store.anchor.known"].tolist() == [1.0, 0.0]
    assert end["store.total"].tolist() == [60.0]  # of the three that trained


def test_the_run_is_what_one_process_makes_of_the_same_sites(tmp_path: Path) -> None:
    ward = Ward(tmp_path, hospitals())
    ward.run(stepped(3))
    sites = {s: Patients(held) for s, held in HELD.items()}
    client, server = stepping.Client(), stepping.Server()
    study = sites["site-1"].study
    alone = run_federation(sites, client, server, study, 3, anchor="site-2")  # type: ignore[arg-type]
    found = last(ward)
    assert set(found) == set(alone.state.tensors)
    for name, array in alone.state.tensors.items():
        np.testing.assert_array_equal(found[name], array)
    kept = ward.sites["site-2"].kept
    assert kept[3]["personal.steps"] == alone.personal["site-2"]["personal.steps"] == 4


def test_a_ledger_line_names_site_seconds_and_bytes_of_a_step(tmp_path: Path) -> None:
    for step in steps(Ward(tmp_path, hospitals()).run(stepped(1))):
        assert step["seconds"] >= 0
        # Two encoders of 3 numbers, a decoder of 10, anchors of 4 and votes of 2, 4 bytes each.
        assert sum(step["bytes_in"]["site-2"].values()) == 4 * (6 + 10 + 4 + 2)
        assert sum(step["bytes_out"]["site-2"].values()) == 4 * (6 + 10 + 4 + 2 + 1)


def test_where_no_step_is_wanted_who_offers_is_a_site_like_others(tmp_path: Path) -> None:
    ward = Ward(tmp_path, hospitals())
    records = ward.run(stepped(2, wants_anchor=False))
    assert [r["heard"] for r in of_kind(records, "round")] == [list(SITES)] * 2
    assert steps(records) == []
    assert everywhere(last(ward), "enc.", 2.0)


def test_of_two_offers_the_first_by_name_is_taken_and_the_other_trains(tmp_path: Path) -> None:
    records = Ward(tmp_path, hospitals(("site-4", "site-2"))).run(stepped(1))
    assert {s["site"] for s in steps(records)} == {"site-2"}
    assert of_kind(records, "round")[0]["heard"] == OTHERS


def _pin(folder: Path, site: str) -> None:
    (folder / "local").mkdir(exist_ok=True)
    (folder / "local" / "anchor.yaml").write_text(f"anchor: {site}\n")


def test_of_two_offers_the_one_that_the_server_names_is_taken(tmp_path: Path) -> None:
    _pin(tmp_path, "site-4")
    records = Ward(tmp_path, hospitals(("site-4", "site-2"))).run(stepped(1))
    assert {s["site"] for s in steps(records)} == {"site-4"}
    assert of_kind(records, "round")[0]["heard"] == ["site-1", "site-2", "site-3"]


@pytest.mark.parametrize(
    ("offering", "pinned"),
    [((), ""), (("site-1", "site-3"), ""), (("site-2",), "site-4"), (("site-2",), "site-9")],
    ids=["nobody", "without every modality", "another is named", "a stranger is named"],
)
def test_a_run_without_anybody_for_the_step_does_not_begin(
    tmp_path: Path, offering: tuple[str, ...], pinned: str
) -> None:
    if pinned:
        _pin(tmp_path, pinned)
    ward = Ward(tmp_path, hospitals(offering))
    records = ward.run(stepped(3))
    assert of_kind(records, "round") == []
    assert of_kind(records, "end")[0]["status"] == "failed_study"
    assert "anchor: true" in ward.panics[0]
    assert pinned in ward.panics[0]


def test_an_unreadable_pin_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "anchor.yaml").write_text("site: site-2\n")
    ward = Ward(tmp_path, hospitals())
    assert ward.run(stepped(1)) == []
    assert "anchor.yaml" in ward.panics[0]


def test_without_training_no_anchor_site_is_needed(tmp_path: Path) -> None:
    ward = Ward(tmp_path, hospitals(()))
    records = ward.run(stepped(0, stages=[EVALUATE]))
    assert of_kind(records, "end")[0]["status"] == "completed"
    assert of_kind(records, "evaluate")[0]["heard"] == list(SITES)


@pytest.mark.parametrize(
    ("how", "reason"),
    [(poisoned, "not_finite"), (error, "EXECUTION_EXCEPTION"), (silence, "late")],
    ids=["refused", "failing", "late"],
)
@pytest.mark.parametrize("at", [0, 2])
def test_a_step_that_does_not_count_leaves_the_folded_state_and_is_in_the_ledger(
    tmp_path: Path, how: object, reason: str, at: int
) -> None:
    ward = Ward(tmp_path, hospitals(site2={(ANCHOR, at): how}))
    start = time.monotonic()
    records = ward.run(stepped(3))
    done = [t != at for t in range(4)]
    found = steps(records)
    assert [s["status"] == "absorbed" for s in found] == done
    assert (found[at]["status"], found[at]["reason"]) == ("kept_last", reason)
    assert found[at]["site"] == "site-2"
    assert [r["status"] for r in of_kind(records, "round")] == ["folded"] * 3
    assert everywhere(last(ward), "enc.", expected(done))
    assert of_kind(records, "end")[0]["status"] == "completed"
    assert time.monotonic() - start < 10


def test_anchors_keep_their_last_values_while_their_site_fails(tmp_path: Path) -> None:
    ward = Ward(tmp_path, hospitals(site2={(ANCHOR, 1): error, (ANCHOR, 2): poisoned}))
    ward.run(stepped(2))
    assert last(ward)["store.anchor.l1"].tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_f01_an_anchor_site_killed_in_its_step_costs_the_step_and_those_after_it(
    tmp_path: Path,
) -> None:
    ward = Ward(tmp_path, {})

    def die(_: Shareable) -> None:
        ward.dead.add("site-2")
        gone = (EventType.CLIENT_DISCONNECTED, FLContextKey.DISCONNECTED_CLIENT_NAME, "site-2")
        threading.Timer(0.2, ward.tell, gone).start()

    ward.sites = hospitals(site2={(ANCHOR, 1): die})
    records = ward.run(stepped(3, round_deadline=30.0, fetch_deadline=30.0))
    found = steps(records)
    assert [s["status"] for s in found] == ["absorbed", *["kept_last"] * 3]
    assert [s["reason"] for s in found[1:]] == ["lost"] * 3
    assert max(s["seconds"] for s in found) < 2
    assert [r["heard"] for r in of_kind(records, "round")] == [OTHERS] * 3
    assert everywhere(last(ward), "enc.", 13.0)
    assert of_kind(records, "end")[0]["status"] == "completed"


def test_a_round_below_the_quorum_has_no_step(tmp_path: Path) -> None:
    bad = {f"site{i}": {(TRAIN, 2): error} for i in (1, 3)}
    ward = Ward(tmp_path, hospitals(**bad))
    records = ward.run(stepped(3))
    assert [r["status"] for r in of_kind(records, "round")] == ["folded", "below_quorum", "folded"]
    assert steps(records)[2] == {"status": "kept_last", "reason": "below_quorum"}
    assert (ANCHOR, 2) not in ward.sites["site-2"].asked
    assert everywhere(last(ward), "enc.", 10 + 12 + 13)


def test_the_anchor_site_is_no_part_of_the_quorum(tmp_path: Path) -> None:
    sites = {s: h for s, h in hospitals().items() if s in ("site-1", "site-2")}
    ward = Ward(tmp_path, sites)
    records = ward.run(stepped(3))
    assert of_kind(records, "round") == []
    assert of_kind(records, "end")[0]["status"] == "failed_quorum"


def test_an_anchor_site_whose_update_breaks_the_bound_changes_nothing(tmp_path: Path) -> None:
    def huge(answer: Shareable) -> Shareable:
        answer["DXO"]["data"]["enc.wsi.w"][:] = 1e6
        return answer

    ward = Ward(tmp_path, hospitals(site2={(ANCHOR, t): huge for t in range(3)}))
    records = ward.run(stepped(2))
    assert [s["reason"] for s in steps(records)] == ["magnitude"] * 3
    assert everywhere(last(ward), "enc.", 2.0)


def test_an_answer_to_the_step_of_another_round_is_refused(tmp_path: Path) -> None:
    def stale(answer: Shareable) -> Shareable:
        answer["DXO"]["meta"]["polyclinic"]["t"] = 0.0
        return answer

    records = Ward(tmp_path, hospitals(site2={(ANCHOR, 1): stale})).run(stepped(1))
    assert [s.get("reason") for s in steps(records)] == [None, "stale"]


def test_one_process_refuses_an_anchor_site_that_is_none_of_the_sites() -> None:
    sites = {s: Patients(held) for s, held in HELD.items()}
    study, halves = sites["site-1"].study, (stepping.Client(), stepping.Server())
    for anchor in ("", "site-9"):
        with pytest.raises(StudyError, match="anchor: true"):
            run_federation(sites, *halves, study, 1, anchor=anchor)  # type: ignore[arg-type]
    plain = run_federation(
        sites,  # type: ignore[arg-type]
        stepping.Client(),
        stepping.Server(wants_anchor=False),
        study,
        2,
        anchor="site-2",
    )
    assert everywhere(plain.state.tensors, "enc.", 2.0)
    assert plain.personal["site-2"]["personal.rounds"] == 2


def _continued(folder: Path, memory: dict[str, dict], rounds: int, **args: object) -> Ward:
    """A job on a storage of its own that lasts, with what the sites remember."""
    (folder / "local").mkdir(parents=True, exist_ok=True)
    (folder / "local" / "polyclinic.yaml").write_text("site: server\nstorage: ../state\n")
    sites = {s: Hospital(s, s == "site-2", kept=memory.setdefault(s, {})) for s in HELD}
    ward = Ward(folder, sites, str(args.pop("job", "job-1")))
    ward.run(stepped(rounds, stages=[TRAIN], **args))
    return ward


def test_f05_a_run_resumed_after_a_round_with_a_step_ends_as_if_never_interrupted(
    tmp_path: Path,
) -> None:
    _continued(tmp_path / "a", {}, 4)
    memory: dict[str, dict] = {}
    _continued(tmp_path / "b", memory, 2)
    _continued(tmp_path / "b", memory, 4, job="job-2", run="job-1", start_round=2)
    name = "state/runs/job-1/checkpoints/round_00004.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_f05_a_round_whose_step_was_not_on_record_is_done_again_from_its_beginning(
    tmp_path: Path,
) -> None:
    whole: dict[str, dict] = {}
    _continued(tmp_path / "a", whole, 3)
    memory: dict[str, dict] = {}
    _continued(tmp_path / "b", memory, 2)
    # The server was killed after the step of round 3 and before its line: sites did all of it.
    for site, kept in memory.items():
        kept[3] = whole[site][3]
    _continued(tmp_path / "b", memory, 3, job="job-2", run="job-1", start_round=2)
    name = "state/runs/job-1/checkpoints/round_00003.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_f05_a_resume_before_the_first_round_takes_up_the_state_after_its_step(
    tmp_path: Path,
) -> None:
    memory: dict[str, dict] = {}
    _continued(tmp_path, memory, 0)
    ward = _continued(tmp_path, memory, 1, job="job-2", run="job-1", start_round=0)
    assert ward.sites["site-2"].asked == [(ANCHOR, 1)]
    assert everywhere(last(ward), "enc.", expected([True, True]))
