"""Masks, personal filters and anchors at the wall; the anchor site's reply."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.shareable import Shareable

from flare.kit import STUDY, Kit
from flare.plugins.stepping import (
    ANCHOR_LEAKS,
    FILTER_LEAKS,
    KNOWN,
    LEAKS,
    LEVEL,
    TOTAL,
    contract,
)
from polyclinic.errors import ContractViolation
from polyclinic.exchange import Contract, Tensors, TensorSpec, Update
from polyclinic.filters import MASK, WEIGHT, without_personal_rows
from polyclinic.flare.convert import ANCHOR, TRAIN, read_reply, reply
from polyclinic.flare.egress import EgressFilter
from polyclinic.flare.site import CONTRACT
from polyclinic.ledger import read_ledger
from polyclinic.study import parse_study

AGREED = contract(parse_study(STUDY))


def kit(folder: Path, *, anchor: bool = True, held: tuple[str, ...] = ("cnv", "rna")) -> Kit:
    """A hospital that holds these and may offer itself."""
    sources = {m: {"kind": "vector", "table": f"{m}.csv"} for m in held}
    cohort = {"root": "../data", "modalities": sources, "anchor": anchor}
    return Kit(folder, {"cohorts": {"demo": cohort}})


def trained() -> Tensors:
    """A good update whose filter 0 is personal."""
    mask = np.array([0, 1, 1], np.uint8)
    names = AGREED.names_for(("cnv", "rna"), "train") - {MASK, WEIGHT}
    moved = {n: np.ones(AGREED.specs[n].shape, np.float32) for n in names}
    return without_personal_rows(moved, mask) | {MASK: mask, WEIGHT: mask.astype(np.float32)}


def stepped() -> Tensors:
    """A good update of the anchor site."""
    names = AGREED.names_for(("cnv", "rna"), "anchor")
    sent: Tensors = {n: np.ones(AGREED.specs[n].shape, np.float32) for n in names}
    known = {KNOWN: np.array([1, 0], np.float32)}
    return sent | known | {LEVEL: np.array([[2, 2], [0, 0]], np.float32)}


def leaves(
    tensors: Tensors, where: Kit, task: str = TRAIN, agreed: Contract = AGREED, **args: Any
) -> Shareable:
    """What the filter lets out."""
    fl_ctx = where.context(task)
    fl_ctx.set_prop(CONTRACT, agreed, private=True, sticky=False)
    return EgressFilter(**args).process(reply(Update(tensors, {"t": 1.0})), fl_ctx)


def test_a_mask_and_weights_leave_with_training(tmp_path: Path) -> None:
    sent = trained()
    out = read_reply(leaves(sent, kit(tmp_path))).tensors
    assert out.keys() == sent.keys()
    assert out[MASK].dtype == np.uint8


def test_the_anchor_sites_step_leaves_a_site_that_offers_itself(tmp_path: Path) -> None:
    where = kit(tmp_path)
    assert read_reply(leaves(stepped(), where, ANCHOR)).tensors.keys() == stepped().keys()
    line = read_ledger(where.storage / "egress.jsonl")[-1]
    assert (line["task"], line["verdict"]) == ("anchor", "sent")
    assert {"store.anchor.l1", "store.anchor.known", "dec", "enc.cnv"} < set(line["groups"])


@pytest.mark.parametrize(
    "site", [{"anchor": False}, {"held": ("cnv",)}], ids=["no offer", "a modality lacks"]
)
def test_no_step_leaves_another_site(tmp_path: Path, site: dict[str, Any]) -> None:
    where = kit(tmp_path, **site)
    with pytest.raises(ContractViolation, match="'anchor' sends"):
        leaves(stepped(), where, ANCHOR)
    assert read_ledger(where.storage / "egress.jsonl")[-1]["verdict"] == "refused"


def test_names_of_one_task_do_not_leave_with_the_other(tmp_path: Path) -> None:
    where = kit(tmp_path)
    for tensors, task in ((stepped(), TRAIN), (trained(), ANCHOR)):
        with pytest.raises(ContractViolation, match="contract"):
            leaves(tensors, where, task)


@pytest.mark.parametrize("leak", FILTER_LEAKS)
def test_p12_nothing_of_a_personal_filter_leaves(tmp_path: Path, leak: str) -> None:
    sent = trained()
    LEAKS[leak](sent)
    with pytest.raises(ContractViolation):
        leaves(sent, kit(tmp_path))


@pytest.mark.parametrize("leak", ANCHOR_LEAKS)
def test_p12_no_unknown_anchor_leaves(tmp_path: Path, leak: str) -> None:
    sent = stepped()
    LEAKS[leak](sent)
    with pytest.raises(ContractViolation, match="anchors that are known"):
        leaves(sent, kit(tmp_path), ANCHOR)


def test_what_the_server_alone_says_never_leaves_even_where_a_contract_has_it(
    tmp_path: Path,
) -> None:
    specs = dict(AGREED.specs) | {TOTAL: TensorSpec((1,))}
    with pytest.raises(ContractViolation, match="lets out"):
        leaves(trained() | {TOTAL: np.ones(1, np.float32)}, kit(tmp_path), agreed=Contract(specs))


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool", "float64"])
def test_no_other_kind_of_number_leaves_even_where_a_contract_has_it(
    tmp_path: Path, dtype: str
) -> None:
    specs = dict(AGREED.specs) | {"fuse.x": TensorSpec((2,), dtype=dtype)}
    extra = {"fuse.x": np.ones(2, dtype)}
    with pytest.raises(ContractViolation, match="real numbers"):
        leaves(trained() | extra, kit(tmp_path), agreed=Contract(specs))


def test_whole_numbers_leave_only_as_marks_and_where_the_contract_says_so(tmp_path: Path) -> None:
    where = kit(tmp_path)
    marks = {"fuse.x": np.array([0, 1], np.uint8)}
    wide = Contract(dict(AGREED.specs) | {"fuse.x": TensorSpec((2,), dtype="uint8")})
    assert "fuse.x" in read_reply(leaves(trained() | marks, where, agreed=wide)).tensors
    with pytest.raises(ContractViolation, match="marks"):
        leaves(trained() | {"fuse.x": np.array([0, 77], np.uint8)}, where, agreed=wide)
    real = Contract(dict(AGREED.specs) | {"fuse.x": TensorSpec((2,))})
    with pytest.raises(ContractViolation, match="dtype"):
        leaves(trained() | marks, where, agreed=real)


@pytest.mark.parametrize(
    ("said", "anchor", "good"),
    [
        (1.0, True, True),
        (1.0, False, False),
        (0.0, True, False),
        (7.0, True, False),
        (True, True, False),
        ("yes", True, False),
    ],
)
def test_a_census_says_that_a_site_offers_itself_only_where_its_settings_do(
    tmp_path: Path, said: object, anchor: bool, good: bool
) -> None:
    facts: dict[str, Any] = {"modalities": ["cnv"], "fingerprint": "a" * 64, "anchor": said}
    where = kit(tmp_path, anchor=anchor)
    census = reply(Update({}, facts))
    if good:
        out = EgressFilter().process(census, where.context("census"))
        assert read_reply(out).scalars["anchor"] == 1.0
        return
    with pytest.raises(ContractViolation):
        EgressFilter().process(census, where.context("census"))


def test_an_offer_leaves_with_no_other_task(tmp_path: Path) -> None:
    fl_ctx = kit(tmp_path).context(TRAIN)
    fl_ctx.set_prop(CONTRACT, AGREED, private=True, sticky=False)
    with pytest.raises(ContractViolation):
        EgressFilter().process(reply(Update(trained(), {"anchor": 1.0})), fl_ctx)
