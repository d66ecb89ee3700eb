"""The desk's anchor step: who does it, and what its update and a trained one may hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flare.plugins import stepping
from flare.plugins.stepping import ANCHOR_LEAKS, FILTER_LEAKS, KNOWN, LEVEL
from polyclinic.algorithms import fedavg
from polyclinic.errors import ContractViolation, SiteError
from polyclinic.exchange import Contract, TensorSpec
from polyclinic.filters import MASK, WEIGHT
from polyclinic.settings import SiteSettings
from polyclinic.study import parse_study
from polyclinic.worker.checks import checked
from polyclinic.worker.desk import Desk
from polyclinic.worker.frame import Message

PANELS = {"cnv": ["a1", "a2"], "wsi": ["b1"]}
STUDY = parse_study(
    {
        "name": "toy",
        "task": {"label": "y", "classes": ["a", "b"]},
        "modalities": {m: {"kind": "vector", "features": f} for m, f in PANELS.items()},
        "split": {"source": "manifest"},
        "embedding": 4,
    }
)


def desk(
    root: Path, *, anchor: bool = True, carry_wsi: int = 24, leak: str = "", client: Any = None
) -> Desk:
    """A hospital of 24 training patients with ``cnv``, some of them with ``wsi``."""
    ids = [f"p{i:02d}" for i in range(24)]
    rows = ["patient_id,y,split", *(f"{p},{'ab'[i % 2]},train" for i, p in enumerate(ids))]
    (root / "manifest.csv").write_text("\n".join(rows))
    for name, count in (("cnv", 24), ("wsi", carry_wsi)):
        lines = [",".join(["patient_id", *PANELS[name]])]
        lines += [",".join([p, *(str(i) for _ in PANELS[name])]) for i, p in enumerate(ids[:count])]
        (root / f"{name}.csv").write_text("\n".join(lines))
    sources = {m: {"kind": "vector", "table": f"{m}.csv"} for m in PANELS}
    cohort = {"root": str(root), "modalities": sources, "anchor": anchor}
    facts = {"site": "north", "storage": str(root / "state"), "cohorts": {"toy": cohort}}
    return Desk.open(SiteSettings.model_validate(facts), STUDY, client or stepping.Client(leak))


def ask(opened: Desk, task: str, personal: dict[str, Any] | None = None, t: int = 0) -> Message:
    """The answer to a task on a state of zeros."""
    specs = stepping.contract(STUDY).specs
    names = stepping.contract(STUDY).names_for(opened.patients.modalities, "state")
    tensors = {f"state/{n}": np.zeros(specs[n].shape, np.float32) for n in names}
    tensors |= {f"personal/{n}": a for n, a in (personal or {}).items()}
    return opened.answer(Message({"do": task, "round": 0, "t": t}, tensors))


def test_the_anchor_step_answers_with_the_names_of_its_way_and_their_contract(
    tmp_path: Path,
) -> None:
    reply = ask(desk(tmp_path), "anchor")
    sent = reply.part("update")
    assert sent.keys() == reply.head["contract"].keys()
    assert {LEVEL, KNOWN} < set(sent)
    assert not {MASK, WEIGHT, "store.total"} & set(sent)
    assert sent["enc.wsi.w"].tolist() == [10.0] * 3
    assert reply.part("personal")["personal.steps"] == 1
    assert reply.head["scalars"] == {"t": 0.0}


def test_training_answers_with_the_names_of_its_own_way(tmp_path: Path) -> None:
    sent = ask(desk(tmp_path), "train", t=1).part("update")
    assert {MASK, WEIGHT} < set(sent)
    assert not {LEVEL, KNOWN, "store.total"} & set(sent)


def test_the_census_says_that_a_site_offers_itself_only_where_it_does(tmp_path: Path) -> None:
    for anchor, carry_wsi, offers in ((True, 11, True), (False, 11, False), (True, 10, False)):
        folder = tmp_path / f"{anchor}{carry_wsi}"
        folder.mkdir()
        said = desk(folder, anchor=anchor, carry_wsi=carry_wsi).answer(Message({"do": "census"}))
        assert ("anchor" in said.head["scalars"]) is offers
        assert said.head["scalars"].get("anchor", 1.0) == 1.0


def test_a_site_that_does_not_offer_itself_does_not_do_the_step(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="anchor: true"):
        ask(desk(tmp_path, anchor=False), "anchor")


def test_a_site_where_too_few_carry_a_modality_does_not_do_the_step(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="every modality"):
        ask(desk(tmp_path, carry_wsi=10), "anchor")


def test_an_algorithm_without_the_step_is_told_so(tmp_path: Path) -> None:
    opened = desk(tmp_path, client=fedavg.Client())
    with pytest.raises(SiteError, match="an algorithm with a step for it"):
        opened.answer(Message({"do": "anchor", "round": 0, "t": 0}))


# What is missing altogether is the egress filter's to see.
@pytest.mark.parametrize("leak", sorted(FILTER_LEAKS.keys() - {"no mask"}))
def test_p12_an_update_that_tells_of_a_personal_filter_stays(tmp_path: Path, leak: str) -> None:
    opened = desk(tmp_path, leak=leak)
    second = {"personal.rounds": np.ones(1, np.float32)}
    ask(opened, "train", t=1)  # in its first round no filter is personal, and it tells nothing
    with pytest.raises(ContractViolation):
        ask(opened, "train", second, t=2)


@pytest.mark.parametrize("leak", ANCHOR_LEAKS)
def test_p12_an_anchor_that_is_not_known_stays(tmp_path: Path, leak: str) -> None:
    with pytest.raises(ContractViolation, match="known"):
        ask(desk(tmp_path, leak=leak), "anchor")


def test_what_only_goes_up_is_no_part_of_a_state(tmp_path: Path) -> None:
    opened = desk(tmp_path)
    state = {f"state/{MASK}": np.ones(3, np.uint8)}
    with pytest.raises(ContractViolation, match="filter"):
        opened.answer(Message({"do": "train", "round": 0, "t": 1}, state))


def test_bounds_hold_for_whole_numbers_too() -> None:
    specs = {
        "store.filter.mask": TensorSpec((2,), bound=1.0, dtype="uint8"),
        "fuse.w": TensorSpec((2,), bound=100.0, dtype="int8"),
    }
    for name, good, bad in (
        ("store.filter.mask", np.array([0, 1], np.uint8), np.array([0, 2], np.uint8)),
        ("fuse.w", np.array([-100, 3], np.int8), np.array([-128, 3], np.int8)),
    ):
        assert checked({name: good}, Contract(specs), ()) == {name: good}
        with pytest.raises(ContractViolation, match="larger"):
            checked({name: bad}, Contract(specs), ())
    with pytest.raises(ContractViolation, match="uint8"):
        checked({"store.filter.mask": np.ones(2, np.float32)}, Contract(specs), ())
