"""The anchor step through the site's socket: memory by round, filter, and refusals."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from flare.kit import COMMAND, JOB, PATIENTS, STUDY, Kit
from flare.plugins.stepping import KNOWN, LEVEL, contract
from polyclinic.exchange import State
from polyclinic.flare import child
from polyclinic.flare.convert import ERROR, Reply, read_reply, task_data
from polyclinic.flare.egress import EgressFilter
from polyclinic.flare.executor import SiteExecutor
from polyclinic.flare.site import CONTRACT
from polyclinic.ledger import read_ledger
from polyclinic.study import parse_study

AGREED = contract(parse_study(STUDY))


def kit(folder: Path, *, anchor: bool = True) -> Kit:
    """A hospital with both modalities, that offers itself."""
    sources = {m: {"kind": "vector", "table": f"{m}.csv", "units": u} for m, u in UNITS.items()}
    cohort = {"root": "../data", "modalities": sources, "anchor": anchor}
    made = Kit(folder, {"cohorts": {"demo": cohort}})
    rows = ["patient_id,g1", *(f"P{i:04d},{i * 0.3:.2f}" for i in range(PATIENTS))]
    (made.root / "data" / "rna.csv").write_text("\n".join(rows) + "\n")
    return made


UNITS = {"cnv": "log2", "rna": "z"}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[SiteExecutor]:
    """An executor of the toy, whose child is ended with the test."""
    monkeypatch.setattr(child, "COMMAND", COMMAND)
    made = SiteExecutor(client={"path": "polyclinic.algorithms.stepping.Client", "args": {}})
    yield made
    made.handle_event(EventType.END_RUN, None)  # type: ignore[arg-type]


def asked(site: SiteExecutor, where: Kit, task: str, round_: int) -> Shareable:
    """The reply to a task on the state of a round, as it leaves the site."""
    specs = AGREED.only("state").specs
    state = State({n: np.zeros(s.shape, np.float32) for n, s in specs.items()}, round_)
    fl_ctx = where.context(task)
    data = task_data(state, {"t": round_ + (task == "train"), "sites": 3})
    return EgressFilter().process(site.execute(task, data, fl_ctx, Signal()), fl_ctx)


def answer(reply: Shareable) -> Reply:
    assert reply.get_return_code() == ReturnCode.OK
    return read_reply(reply)


def test_the_step_leaves_whole_and_its_memory_is_kept_by_round(
    tmp_path: Path, site: SiteExecutor
) -> None:
    where = kit(tmp_path)
    first = answer(asked(site, where, "anchor", 0))
    assert first.tensors.keys() == AGREED.names_for(("cnv", "rna"), "anchor")
    assert first.tensors["enc.rna.w"].tolist() == [10.0] * 3
    second = answer(asked(site, where, "anchor", 1))
    assert second.tensors["enc.rna.w"].tolist() == [11.0] * 3
    assert second.tensors[LEVEL][0].tolist() == [2.0, 2.0]
    assert second.tensors[KNOWN].tolist() == [1.0, 0.0]
    assert second.scalars["t"] == 1
    lines = read_ledger(where.storage / "egress.jsonl")
    assert [(x["task"], x["round"], x["verdict"]) for x in lines] == [
        ("anchor", 0, "sent"),
        ("anchor", 1, "sent"),
    ]


def test_f05_a_step_that_is_asked_for_again_starts_from_what_was_before_it(
    tmp_path: Path, site: SiteExecutor
) -> None:
    where = kit(tmp_path)
    for _ in range(2):
        assert answer(asked(site, where, "anchor", 0)).tensors["enc.rna.w"][0] == 10
    for _ in range(2):
        assert answer(asked(site, where, "anchor", 1)).tensors["enc.rna.w"][0] == 11
    assert (where.storage / "personal" / JOB / "round_1.safetensors").exists()


def test_the_contract_of_the_step_reaches_the_filter(tmp_path: Path, site: SiteExecutor) -> None:
    where = kit(tmp_path)
    fl_ctx = where.context("anchor")
    specs = AGREED.only("state").specs
    state = State({n: np.zeros(s.shape, np.float32) for n, s in specs.items()}, 0)
    site.execute("anchor", task_data(state, {"t": 0}), fl_ctx, Signal())
    stated = fl_ctx.get_prop(CONTRACT)
    assert stated.specs == AGREED.only("anchor").specs


def test_training_of_a_site_with_a_mask_leaves_too(tmp_path: Path, site: SiteExecutor) -> None:
    where = kit(tmp_path)
    for round_, mask in ((0, [1, 1, 1]), (1, [0, 1, 1])):
        tensors = answer(asked(site, where, "train", round_)).tensors
        assert tensors["store.filter.mask"].tolist() == mask
        assert tensors["dec.a.bias"].tolist() == [float(mask[0]), 1.0]


def test_a_site_that_does_not_offer_itself_says_so_without_a_payload(
    tmp_path: Path, site: SiteExecutor
) -> None:
    reply = asked(site, kit(tmp_path, anchor=False), "anchor", 0)
    assert set(reply) == {"__headers__"}
    words = reply.get_header(ERROR)
    assert (words["code"], words["owner"]) == ("site", "data manager")
    assert "anchor: true" in words["message"]
