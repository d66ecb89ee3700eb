"""The last look before the wall: a site-owned filter that lets out only what it knows.

Guarantees, for every reply the filter returns:

- it is built anew from parts that were checked one by one; nothing else of the reply is kept;
- tensors are finite real arrays whose names match the site's patterns, belong to modalities the
  site holds, and are never ``personal.*``; names, shapes and dtypes are exactly those of the
  contract that the site's training process derived from the job;
- a count of a class, which is of patients, is a vote (0 or 1) or no smaller than the site's
  smallest cell, and a class without one has no mean;
- scalars and metrics are those of ``polyclinic.flare.figures``;
- an error carries a code, an owner and one sentence, see ``polyclinic.flare.words``; a sentence
  about data is a fixed one;
- anything else raises, which FLARE turns into TASK_RESULT_FILTER_ERROR without payload;
- a line about it is in the site's own ``egress.jsonl`` before anything leaves.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply

from polyclinic.errors import PolyclinicError, SiteError
from polyclinic.exchange import PERSONAL, Contract
from polyclinic.flare.audit import EgressAudit
from polyclinic.flare.convert import CENSUS, ERROR, META, TRAIN, is_number
from polyclinic.flare.figures import leaving_metrics, leaving_scalars, refused
from polyclinic.flare.site import CONTRACT, Site, find_site
from polyclinic.flare.words import leaving_words

HELD = "{held}"
ALLOW = (
    rf"(enc|head)\.{HELD}\..+",
    r"head\.fused\..+",
    r"(fuse|dec|calib)\..+",
    rf"store\.(proto|count)\.{HELD}",
    r"store\.anchor\.[a-z0-9_]+",
)
# One name of every family the contract can have, for a site that holds "m".
SPECIMENS = (
    *("enc.m.0.weight", "head.m.weight", "head.fused.weight", "fuse.0.weight", "dec.m.0.weight"),
    *("calib.bias", "store.proto.m", "store.count.m", "store.anchor.a"),
)
PROTO, COUNT = "store.proto.", "store.count."
BY_MODALITY = re.compile(r"^(?:enc|head|store\.(?:proto|count))\.([^.]+)")
WORDS = re.compile(r"[A-Za-z0-9_.]{1,128}")
DTYPES = frozenset({"float32"})
RETURN_CODES = frozenset(v for k, v in vars(ReturnCode).items() if k.isupper())


class EgressFilter(Filter):
    """A plain ``Filter``, because a ``DXOFilter`` lets pass whatever is not a DXO.

    Args:
        allow: regular expressions for whole tensor names; ``{held}`` stands for the modalities
            the site holds.
        limit_mb: largest sum of tensors a reply may have, in 10^6 bytes.

    Raises:
        SiteError: a pattern that is none, or that no name of any contract can match; a limit that
            is not a positive number.
    """

    def __init__(self, allow: Sequence[str] = ALLOW, limit_mb: float = 512) -> None:
        super().__init__()
        if not is_number(limit_mb) or limit_mb <= 0:
            raise _misconfigured("a positive limit_mb", repr(limit_mb))
        if isinstance(allow, str) or not isinstance(allow, Sequence) or not allow:
            raise _misconfigured("a list of patterns in 'allow'", type(allow).__name__)
        for pattern in allow:
            _check_pattern(pattern)
        self.allow = list(allow)
        self.limit_mb = limit_mb
        self.audit = EgressAudit()

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The reply, rebuilt from what may leave, and on record.

        Raises:
            ContractViolation: anything in it that may not.
            SiteError: it cannot be put on record, or the site's settings do not hold.
        """
        code = shareable.get_return_code()
        failed = code not in (None, "", ReturnCode.OK)
        try:
            clean = self._error(shareable, code) if failed else self._answer(shareable, fl_ctx)
        except Exception as error:
            reason = error.code if isinstance(error, PolyclinicError) else "exception"
            self.audit.record(fl_ctx, "refused", reason)
            raise
        if failed:
            told = clean.get_header(ERROR) or {}
            self.audit.record(fl_ctx, "error", told.get("code", "unknown"))
        else:
            self.audit.record(fl_ctx, "sent", tensors=clean["DXO"]["data"])
        return clean

    def _answer(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """What may leave of a reply that is no error."""
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        dxo = self._only_dxo(shareable)
        site = find_site(fl_ctx)
        least = site.settings.minimum_cell
        labels = tuple(site.study.task.labels)
        metrics = dxo.meta.pop(MetaKey.INITIAL_METRICS, {})
        scalars = dxo.meta.pop(META, {})
        dxo.meta.pop(MetaKey.FILTER_HISTORY, None)
        if dxo.meta:
            raise refused("meta of this package", f"{len(dxo.meta)} other entries")
        if dxo.data_kind == DataKind.METRICS:
            told = leaving_metrics(dxo.data, site.held, least, labels)
            clean = DXO(DataKind.METRICS, data=told, meta={})
        elif dxo.data_kind == DataKind.WEIGHT_DIFF and task == TRAIN:
            tensors = self._tensors(dxo.data, site, fl_ctx.get_prop(CONTRACT))
            clean = DXO(DataKind.WEIGHT_DIFF, data=tensors, meta={})
            told = leaving_metrics(metrics, site.held, least, labels)
            clean.meta[MetaKey.INITIAL_METRICS] = told
        else:
            raise refused(f"the kind of data that '{task}' sends", str(dxo.data_kind)[:32])
        clean.meta[META] = leaving_scalars(scalars, site.held, least, names=task == CENSUS)
        return clean.to_shareable()

    def _only_dxo(self, shareable: Shareable) -> DXO:
        """A copy of the reply's one DXO; its headers are left behind."""
        others = set(shareable) - {"DXO", ReservedHeaderKey.HEADERS}
        if others:
            raise refused("a single data exchange object", f"{len(others)} other entries")
        try:
            dxo = from_shareable(shareable)
        except (ValueError, TypeError, AttributeError) as error:
            raise refused("a data exchange object", type(error).__name__) from None
        if not isinstance(dxo.data, dict) or set(shareable["DXO"]) - {"kind", "data", "meta"}:
            raise refused("a data exchange object", "another structure")
        return DXO(dxo.data_kind, data=dict(dxo.data), meta=dict(dxo.meta or {}))

    def _tensors(self, data: Mapping[str, Any], site: Site, contract: object) -> dict[str, Any]:
        patterns = [re.compile(_filled(p, site.held)) for p in self.allow]
        for name, array in data.items():
            plain = isinstance(name, str) and WORDS.fullmatch(name)
            if not plain or not any(p.fullmatch(name) for p in patterns):
                raise refused("tensors this site lets out", f"{len(data)} with another among them")
            found = BY_MODALITY.match(name)
            if name.startswith(PERSONAL) or (found and found[1] not in {*site.held, "fused"}):
                raise refused("tensors of modalities this site holds", f"'{name}'")
            _require_plain(name, array)
        size = sum(array.nbytes for array in data.values())
        if not data or size > self.limit_mb * 1e6:
            raise refused(f"1 byte to {self.limit_mb:g} MB of tensors", f"{size} bytes")
        _require_contract(data, contract, site.held)
        _require_votes(data, site.settings.minimum_cell)
        return dict(data)

    def _error(self, shareable: Shareable, code: str) -> Shareable:
        """An error without payload: FLARE's code and our four checked words."""
        if code not in RETURN_CODES:
            raise refused("a return code of FLARE", "another")
        if set(shareable) - {ReservedHeaderKey.HEADERS}:
            raise refused("an error without payload", f"payload beside {code}")
        told = shareable.get_header(ERROR)
        clean = make_reply(code)
        if isinstance(told, Mapping):
            clean.set_header(ERROR, leaving_words(told))
        return clean


def _require_plain(name: str, array: object) -> None:
    """Pass finite real numbers in NumPy's own array, which has no room for anything else."""
    # A subclass may hide numbers behind a mask or carry attributes, a dtype carry metadata.
    if type(array) is not np.ndarray or array.dtype.name not in DTYPES:
        raise refused(f"'{name}' as real numbers", type(array).__name__)
    if array.dtype.metadata or not array.dtype.isnative:
        raise refused(f"'{name}' as real numbers", "another layout")
    if not np.isfinite(array).all():
        raise refused(f"finite numbers in '{name}'", "NaN or infinity")


def _require_contract(data: Mapping[str, Any], contract: object, held: Sequence[str]) -> None:
    """Pass exactly the tensors of the contract, of all or some modalities held."""
    if not isinstance(contract, Contract):
        raise refused("the contract from the training process", "none")
    allowed = contract.names_for(held)
    holders = {contract.specs[n].holder for n in data if n in allowed} - {None}
    if set(data) != contract.names_for(h for h in holders if h is not None):
        raise refused("the tensors of the job's contract", f"{len(data)} that differ from them")
    for name, array in data.items():
        spec = contract.specs[name]
        if array.shape != spec.shape or array.dtype.name != spec.dtype:
            raise refused(f"'{name}' as {spec.dtype} {spec.shape}", "another shape or dtype")


def _require_votes(data: Mapping[str, Any], least: int) -> None:
    """Pass counts of 0, 1 (a vote) or at least a cell, and no mean of a class without one."""
    for name, counts in data.items():
        if name.startswith(COUNT):
            large = (counts >= least) & (counts == np.rint(counts))
            if counts.ndim != 1 or not ((counts == 0) | (counts == 1) | large).all():
                raise refused(f"votes, or counts of {least} or more, in '{name}'", "others")
    for name, means in data.items():
        if name.startswith(PROTO):
            votes = data.get(COUNT + name.removeprefix(PROTO))
            if votes is None or means.ndim != 2 or len(means) != len(votes):
                raise refused(f"a mean for each class that votes in '{name}'", "others")
            if means[votes == 0].any():
                raise refused(f"no mean of a class that does not vote in '{name}'", "one")


def _check_pattern(pattern: object) -> None:
    """Refuse a pattern with a typo: one that does not compile, or can match nothing."""
    if not isinstance(pattern, str):
        raise _misconfigured("patterns that are text in 'allow'", type(pattern).__name__)
    try:
        compiled = re.compile(_filled(pattern, ("m",)))
    except re.error as error:
        raise _misconfigured("a regular expression in 'allow'", str(error)) from None
    if not any(compiled.fullmatch(name) for name in SPECIMENS):
        raise _misconfigured("a pattern that some tensor's whole name matches", f"'{pattern}'")


def _filled(pattern: str, held: Sequence[str]) -> str:
    return pattern.replace(HELD, f"(?:{'|'.join(map(re.escape, held))})")


def _misconfigured(expected: str, got: str) -> SiteError:
    return SiteError(expected=expected, got=got, remedy="correct local/privacy.json")
