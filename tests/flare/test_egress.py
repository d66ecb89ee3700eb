"""What leaves a site: the one reply the filter knows, and nothing of the ways around it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.utils.task_utils import apply_filters
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.private.privacy_manager import Scope

from flare.kit import Kit, agreed
from polyclinic.errors import ContractViolation, PolyclinicError, SiteError
from polyclinic.exchange import Update
from polyclinic.flare.convert import ERROR, read_reply, reply
from polyclinic.flare.egress import ALLOW, EgressFilter
from polyclinic.flare.words import WITHHELD

SECRET = np.full(3, 7.0, np.float32)
GOOD = {
    "enc.cnv.weight": np.ones((2, 3), np.float32),
    "head.cnv.bias": np.ones(2, np.float32),
    "head.fused.bias": np.ones(2, np.float32),
    "fuse.weight": np.ones(3, np.float32),
    "store.proto.cnv": np.ones((2, 4), np.float32),
    "store.count.cnv": np.ones(2, np.float32),
}


def trained(tensors: dict[str, Any] | None = None, **scalars: Any) -> Shareable:
    """A reply to ``train`` as the executor makes it."""
    update = Update(dict(GOOD if tensors is None else tensors), {"n": 40.0, "t": 1.0} | scalars)
    return reply(update, {"train/loss": 0.5})


def leaves(shareable: Shareable, kit: Kit, task: str = "train", **args: Any) -> Shareable:
    """What the filter lets out of a reply whose tensors the contract would allow."""
    content = shareable.get("DXO", {}).get("data", {})
    arrays = {n: a for n, a in content.items() if isinstance(a, np.ndarray)}
    return EgressFilter(**args).process(shareable, agreed(kit.context(task), arrays))


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def test_a_good_update_leaves_unchanged(kit: Kit) -> None:
    out = read_reply(leaves(trained(), kit))
    assert out.kind == DataKind.WEIGHT_DIFF
    assert out.tensors.keys() == GOOD.keys()
    assert all(out.tensors[n] is GOOD[n] for n in GOOD)  # no copy of a large model
    assert out.scalars == {"n": 40.0, "t": 1.0}
    assert out.metrics == {"train/loss": 0.5}


def test_a_census_leaves_with_its_names(kit: Kit) -> None:
    facts = {"modalities": ["cnv"], "fingerprint": "a" * 64, "version": "0.1.0", "n.cnv": 16.0}
    out = read_reply(leaves(reply(Update({}, facts)), kit, "census"))
    assert (out.tensors, out.scalars) == ({}, facts)


def with_meta(key: str, value: Any) -> Shareable:
    shareable = trained()
    shareable["DXO"]["meta"][key] = value
    return shareable


def with_entry(key: str, value: Any) -> Shareable:
    shareable = trained()
    shareable[key] = value
    return shareable


def error_with_payload() -> Shareable:
    shareable = trained({"personal.head": SECRET})
    shareable.set_return_code(ReturnCode.EXECUTION_EXCEPTION)
    return shareable


def dxo(kind: str, data: Any, meta: dict[str, Any] | None = None) -> Shareable:
    return DXO(kind, data=data, meta=meta).to_shareable()


nested = DXO(DataKind.WEIGHT_DIFF, data={"personal.head": SECRET})
# P12: every way around a filter that looks at the weights of a well-formed DXO only.
BYPASSES: dict[str, Callable[[], Shareable]] = {
    "plain": lambda: trained(GOOD | {"personal.head": SECRET}),
    "return code with payload": error_with_payload,
    "no DXO": lambda: Shareable({"personal.head": SECRET}),
    "nested DXO": lambda: trained(GOOD | {"enc.cnv.inner": nested}),
    "collection": lambda: dxo(DataKind.COLLECTION, {"a": nested}),
    "metrics kind": lambda: dxo(DataKind.METRICS, {"personal.head": SECRET}),
    "meta": lambda: with_meta("personal.head", SECRET),
    "scalar": lambda: trained(**{"n.head": SECRET}),
    "text scalar": lambda: trained(note="Jane Roe"),
    "beside the DXO": lambda: with_entry("personal.head", SECRET),
    "full weights": lambda: dxo(DataKind.WEIGHTS, GOOD),
    "initial metrics": lambda: with_meta(MetaKey.INITIAL_METRICS, {"loss of Jane Roe": 1.0}),
    "metric that is an array": lambda: with_meta(MetaKey.INITIAL_METRICS, {"train/loss": SECRET}),
    "modality not held": lambda: trained(GOOD | {"enc.rna.weight": SECRET}),
    "personal under a root": lambda: trained(GOOD | {"store.personal.head": SECRET}),
    "words in a name": lambda: trained(GOOD | {"enc.cnv.Jane Roe": SECRET}),
    "list": lambda: trained(GOOD | {"fuse.bias": [7.0]}),
    "integers": lambda: trained(GOOD | {"fuse.bias": SECRET.astype(np.int64)}),
    "not finite": lambda: trained(GOOD | {"fuse.bias": SECRET * np.nan}),
    "small count": lambda: trained(n=3.0),
    "small count in metrics": lambda: with_meta(MetaKey.INITIAL_METRICS, {"test/n": 3.0}),
}


class Named(np.ndarray):
    """An array with room for a name."""


def named() -> np.ndarray[Any, Any]:
    array = np.ones(3, np.float32).view(Named)
    array.patient = "Jane Roe"  # type: ignore[attr-defined]
    return array


def metrics(**changes: float) -> Shareable:
    """A reply whose metrics have slashes for double underscores."""
    return with_meta(MetaKey.INITIAL_METRICS, {n.replace("__", "/"): v for n, v in changes.items()})


def facts(**changes: Any) -> Shareable:
    said = {"modalities": ["cnv"], "fingerprint": "a" * 64, "version": "0.1.0"}
    return reply(Update({}, said | changes))


masked = np.ma.MaskedArray(np.array([1, np.nan], np.float32), mask=[False, True])
tagged = np.dtype(np.float32, metadata={"patient": "Jane Roe"})
# Names, numbers and arrays as channels for text or for single patients.
CHANNELS: dict[str, Callable[[], Shareable]] = {
    "text in a metric's name": lambda: metrics(validation__auroc__jane_roe_hiv_positive=0.5),
    "text as a modality": lambda: metrics(proto_norm__jane_roe=0.5),
    "modality not held in a metric": lambda: metrics(embedding_variance__rna=0.5),
    "a set that is not sorted": lambda: metrics(**{"test/auroc/fused+cnv": 0.5}),
    "a set that repeats": lambda: metrics(**{"test/auroc/cnv+cnv": 0.5}),
    "text as a reason": lambda: metrics(quarantined__jane_roe=12.0),
    "a share above 1": lambda: metrics(validation__auroc=1234.25),
    "a count with a fraction in metrics": lambda: metrics(validation__n=40.7),
    "more metrics than there are": lambda: metrics(
        **{f"quarantined/x{i}": 12.0 for i in range(300)}
    ),
    "few set aside": lambda: metrics(quarantined__non_finite=1.0),
    "text as a scalar's modality": lambda: trained(**{"n.jane_roe": 40.0}),
    "a scalar with a new line": lambda: trained(**{"n\n": 40.0}),
    "a count with a fraction": lambda: trained(n=40.125),
    "a negative count": lambda: trained(n=-3.0),
    "a round with a fraction": lambda: trained(t=1.5),
    "a negative round": lambda: trained(t=-1.0),
    "a large round": lambda: trained(t=1e9),
    "masked array": lambda: trained(GOOD | {"enc.cnv.weight": masked}),
    "subclass with attributes": lambda: trained(GOOD | {"enc.cnv.weight": named()}),
    "dtype with metadata": lambda: trained(GOOD | {"enc.cnv.weight": np.ones(3, tagged)}),
    "foreign byte order": lambda: trained(GOOD | {"enc.cnv.weight": np.ones(3, ">f4")}),
    "class counts below the cell": lambda: trained(
        GOOD | {"store.count.cnv": np.array([10, 40], np.float32)}
    ),
    "a row for each patient": lambda: trained(
        GOOD | {"store.proto.cnv": np.ones((24, 4), np.float32)}
    ),
    "means without counts": lambda: trained({"store.proto.cnv": np.ones((2, 4), np.float32)}),
    "the mean of a class that does not vote": lambda: trained(
        GOOD | {"store.count.cnv": np.array([1, 0], np.float32)}
    ),
    "free return code": lambda: make_reply("Jane Roe", headers={}),
}
CENSUS_CHANNELS: dict[str, Callable[[], Shareable]] = {
    "repeated modalities": lambda: facts(modalities=["cnv"] * 50),
    "modalities that are no text": lambda: facts(modalities=[["cnv"]]),
    "fingerprint with a new line": lambda: facts(fingerprint="a" * 64 + "\n"),
    "text as a reason": lambda: facts(**{"quarantined.jane_roe": 12.0}),
}


@pytest.mark.parametrize("make", CHANNELS.values(), ids=CHANNELS.keys())
def test_no_channel_in_names_numbers_or_arrays(
    tmp_path: Path, make: Callable[[], Shareable]
) -> None:
    with pytest.raises(ContractViolation) as caught:
        leaves(make(), Kit(tmp_path, {"minimum_cell": 11}))
    assert "jane" not in str(caught.value).lower()


@pytest.mark.parametrize("make", CENSUS_CHANNELS.values(), ids=CENSUS_CHANNELS.keys())
def test_no_channel_in_a_census(tmp_path: Path, make: Callable[[], Shareable]) -> None:
    with pytest.raises(ContractViolation):
        leaves(make(), Kit(tmp_path, {"minimum_cell": 11}), "census")


def test_metrics_of_modalities_held_leave(kit: Kit) -> None:
    told = {
        "validation/auroc/cnv": 0.75,
        "test/brier/cnv+fused": 0.2,
        "head_norm/fused": 3.0,
        "quarantined/not_finite": 12.0,
        "seconds/train": 1.5,
    }
    assert read_reply(leaves(with_meta(MetaKey.INITIAL_METRICS, told), kit)).metrics == told


def test_class_counts_of_a_cell_or_more_leave(tmp_path: Path) -> None:
    counts = GOOD | {"store.count.cnv": np.array([11, 40], np.float32)}
    out = leaves(trained(counts), Kit(tmp_path, {"minimum_cell": 11}))
    assert read_reply(out).tensors["store.count.cnv"].tolist() == [11, 40]


DEVIATIONS: dict[str, dict[str, Any]] = {
    "another name": GOOD | {"enc.cnv.patients": SECRET},
    "a name less": {n: a for n, a in GOOD.items() if n != "fuse.weight"},
    "part of a modality": {n: a for n, a in GOOD.items() if n != "head.cnv.bias"},
    "another shape": GOOD | {"enc.cnv.weight": np.ones((24, 3), np.float32)},
    "another dtype": GOOD | {"enc.cnv.weight": np.ones((2, 3), np.float64)},
}


def under_contract(kit: Kit, tensors: dict[str, Any]) -> Shareable:
    return EgressFilter().process(trained(tensors), agreed(kit.context("train"), GOOD))


def test_exactly_the_jobs_contract_leaves(kit: Kit) -> None:
    assert read_reply(under_contract(kit, GOOD)).tensors.keys() == GOOD.keys()


def test_without_a_contract_no_tensor_leaves(kit: Kit) -> None:
    with pytest.raises(ContractViolation, match="contract"):
        EgressFilter().process(trained(), kit.context("train"))


def test_a_modality_that_too_few_carry_may_be_absent_as_a_whole(kit: Kit) -> None:
    shared = {n: a for n, a in GOOD.items() if ".cnv" not in n}
    assert read_reply(under_contract(kit, shared)).tensors.keys() == shared.keys()


@pytest.mark.parametrize("tensors", DEVIATIONS.values(), ids=DEVIATIONS.keys())
def test_what_deviates_from_the_jobs_contract_stays(kit: Kit, tensors: dict[str, Any]) -> None:
    with pytest.raises(ContractViolation):
        under_contract(kit, tensors)


@pytest.mark.parametrize("make", BYPASSES.values(), ids=BYPASSES.keys())
def test_no_way_around(tmp_path: Path, make: Callable[[], Shareable]) -> None:
    kit = Kit(tmp_path, {"minimum_cell": 11})
    with pytest.raises(ContractViolation) as caught:
        leaves(make(), kit)
    assert "Jane Roe" not in str(caught.value)


def test_unknown_headers_stay(kit: Kit) -> None:
    shareable = trained()
    shareable.set_header("note", "Jane Roe")
    assert "Jane Roe" not in repr(leaves(shareable, kit))


@pytest.mark.parametrize("task", ["census", "finalise", "evaluate", "another"])
def test_only_training_sends_tensors(kit: Kit, task: str) -> None:
    with pytest.raises(ContractViolation):
        leaves(trained(), kit, task)


def test_an_update_beyond_the_size_limit_stays(kit: Kit) -> None:
    size = sum(a.nbytes for a in GOOD.values())
    leaves(trained(), kit, limit_mb=size / 1e6)
    with pytest.raises(ContractViolation, match="bytes"):
        leaves(trained(), kit, limit_mb=(size - 1) / 1e6)


def test_a_site_may_let_out_less(kit: Kit) -> None:
    encoders = {"allow": [r"enc\.{held}\..+"]}
    leaves(trained({"enc.cnv.weight": GOOD["enc.cnv.weight"]}), kit, **encoders)
    with pytest.raises(ContractViolation):
        leaves(trained(), kit, **encoders)


def test_without_settings_nothing_leaves(kit: Kit) -> None:
    (kit.root / "local" / "polyclinic.yaml").unlink()
    with pytest.raises(SiteError):
        leaves(trained(), kit)


# P13: a filter that would protect nothing does not come into being, so the job does not start.
MISCONFIGURED = {
    "typo in the regex": {"allow": [r"enc\.(cnv\..+"]},
    "wrong type": {"allow": r"enc\..+"},
    "wrong type inside": {"allow": [3]},
    "zero matches": {"allow": [r"encoder\..+"]},
    "one of two matches nothing": {"allow": [*ALLOW, r"enk\.{held}\..+"]},
    "empty": {"allow": []},
    "limit of nothing": {"limit_mb": 0},
    "limit that is text": {"limit_mb": "512"},
    "unknown argument": {"allowed": list(ALLOW)},
}


@pytest.mark.parametrize("args", MISCONFIGURED.values(), ids=MISCONFIGURED.keys())
def test_a_misconfigured_filter_refuses_to_start(args: dict[str, Any]) -> None:
    with pytest.raises((SiteError, TypeError)):
        EgressFilter(**args)


@pytest.mark.parametrize("args", MISCONFIGURED.values(), ids=MISCONFIGURED.keys())
def test_flare_does_not_start_a_job_with_a_misconfigured_filter(
    kit: Kit, args: dict[str, Any]
) -> None:
    import json

    entry = {"path": "polyclinic.flare.egress.EgressFilter", "args": args}
    scope = {"name": "polyclinic", "properties": {}, "task_result_filters": [entry]}
    path = kit.root / "local" / "privacy.json"
    path.write_text(json.dumps({"scopes": [scope]}))
    workspace = kit.context().get_engine().get_workspace()
    with pytest.raises(Exception, match=r"privacy\.json|unexpected keyword|EgressFilter"):
        create_privacy_manager(workspace, names_only=False)


def test_an_error_leaves_with_its_words_only(kit: Kit) -> None:
    words = {"code": "study", "owner": "researcher", "message": "Expected 3 rows, got 2; mend."}
    shareable = make_reply(ReturnCode.EXECUTION_EXCEPTION, {ERROR: words | {"x": 1}, "note": "y"})
    out = leaves(shareable, kit)
    assert out.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert out["__headers__"] == {ERROR: words, "__rc__": ReturnCode.EXECUTION_EXCEPTION}


@pytest.mark.parametrize(
    "message",
    [
        "could not open /data/brca/TCGA-A1.h5",
        "could not open '/data/x'",
        r"could not open D:\slides\x",
        "born 1951-03-02",
        "MRN 00123456",
        "write to jane@roe.example",
        "call 555-0142",
        "Roe^Jane has no label",
        "series 1.2.840.113619.2",
        "slide TCGA-A1-A0SB is torn",
        "x" * 601,
        "a line\nand another",
    ],
)
def test_a_sentence_that_may_identify_somebody_stays(kit: Kit, message: str) -> None:
    words = {"code": "site", "owner": "site IT", "message": message}
    shareable = make_reply(ReturnCode.EXECUTION_EXCEPTION, {ERROR: words})
    assert leaves(shareable, kit).get_header(ERROR)["message"] == WITHHELD


@pytest.mark.parametrize("kind", PolyclinicError.__subclasses__())
def test_our_own_sentences_pass(kit: Kit, kind: type[PolyclinicError]) -> None:
    if kind.code in ("data", "diverged"):
        pytest.skip("its sentences may hold what was computed from patients")
    error = kind(expected="'enc.cnv.weight' as float32 (2, 3)", got="(4,)", remedy="mend it")
    words = {"code": error.code, "owner": error.owner, "message": str(error)}
    shareable = make_reply(ReturnCode.BAD_TASK_DATA, {ERROR: words})
    assert leaves(shareable, kit).get_header(ERROR) == words


def test_the_filter_runs_in_the_sites_scope_as_flare_applies_it(kit: Kit) -> None:
    scope, fl_ctx = Scope(), agreed(kit.context("train"), GOOD)
    scope.add_task_result_filter(EgressFilter(), FilterKey.OUT)
    fl_ctx.set_prop(FLContextKey.SCOPE_OBJECT, scope)

    def apply(data: Shareable) -> Any:
        names = Scope.TASK_RESULT_FILTERS_NAME
        return apply_filters(names, data, fl_ctx, {}, "train", FilterKey.OUT)

    assert from_shareable(apply(trained())).data.keys() == GOOD.keys()
    with pytest.raises(ContractViolation):
        apply(trained({"personal.head": SECRET}))
    assert isinstance(EgressFilter(), Filter)
