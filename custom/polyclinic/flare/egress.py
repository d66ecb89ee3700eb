"""The last look before the wall: a site-owned filter that lets out only what it knows.

Guarantees, for every reply the filter returns:

- it is built anew from parts that were checked one by one; nothing else of the reply is kept;
- tensors are finite real arrays whose names match the site's patterns, belong to modalities the
  site holds, and are never ``personal.*``; names, shapes and dtypes are exactly those of the
  contract that the site's training process derived from the job;
- a count of a class, which is of patients, is a vote (0 or 1) or no smaller than the site's
  smallest cell, and a class without one has no mean; an anchor that is not known is 0;
- whole numbers are marks (0 or 1); rows of filters that the site keeps for itself are 0;
- tensors leave in answer to ``train``, and to ``anchor`` from a site that offers itself as anchor
  site and holds every modality of the study;
- scalars and metrics are those of ``polyclinic.flare.figures``;
- an error carries a code, an owner and one sentence, see ``polyclinic.flare.words``; a sentence
  about data is a fixed one;
- anything else raises, which FLARE turns into TASK_RESULT_FILTER_ERROR without payload;
- a line about it is in the site's own ``egress.jsonl`` before anything leaves.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply

from polyclinic.errors import PolyclinicError, SiteError
from polyclinic.exchange import PERSONAL, Way
from polyclinic.flare.audit import EgressAudit
from polyclinic.flare.convert import ANCHOR, CENSUS, ERROR, META, TRAIN, WAYS, is_number
from polyclinic.flare.figures import leaving_metrics, leaving_scalars, refused
from polyclinic.flare.leaving import require_contract, require_plain, require_silence, require_votes
from polyclinic.flare.site import CONTRACT, Site, find_site
from polyclinic.flare.words import leaving_words

HELD = "{held}"
ALLOW = (
    rf"(enc|head)\.{HELD}\..+",
    r"head\.fused\..+",
    r"(fuse|dec|calib)\..+",
    rf"store\.(proto|count)\.{HELD}",
    r"store\.anchor\.[a-z0-9_]+",
    r"store\.filter\.(mask|weight)",
)
# One name of every family the contract can have, for a site that holds "m".
SPECIMENS = (
    *("enc.m.0.weight", "head.m.weight", "head.fused.weight", "fuse.0.weight", "dec.m.0.weight"),
    *("calib.bias", "store.proto.m", "store.count.m", "store.anchor.a"),
    *("store.filter.mask", "store.filter.weight"),
)
BY_MODALITY = re.compile(r"^(?:enc|head|store\.(?:proto|count))\.([^.]+)")
WORDS = re.compile(r"[A-Za-z0-9_.]{1,128}")
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
        asked = site.study.task
        named = (tuple(asked.labels), asked.names if asked.segments else ())
        metrics = dxo.meta.pop(MetaKey.INITIAL_METRICS, {})
        scalars = dxo.meta.pop(META, {})
        dxo.meta.pop(MetaKey.FILTER_HISTORY, None)
        if dxo.meta:
            raise refused("meta of this package", f"{len(dxo.meta)} other entries")
        if dxo.data_kind == DataKind.METRICS:
            told = leaving_metrics(dxo.data, site.held, least, *named)
            clean = DXO(DataKind.METRICS, data=told, meta={})
        elif dxo.data_kind == DataKind.WEIGHT_DIFF and _may_send(task, site):
            tensors = self._tensors(dxo.data, site, fl_ctx.get_prop(CONTRACT), WAYS[task])
            clean = DXO(DataKind.WEIGHT_DIFF, data=tensors, meta={})
            told = leaving_metrics(metrics, site.held, least, *named)
            clean.meta[MetaKey.INITIAL_METRICS] = told
        else:
            raise refused(f"the kind of data that '{task}' sends", str(dxo.data_kind)[:32])
        clean.meta[META] = leaving_scalars(
            scalars, site.held, least, names=task == CENSUS, anchor=site.offers_anchor
        )
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

    def _tensors(
        self, data: Mapping[str, Any], site: Site, contract: object, way: Way
    ) -> dict[str, Any]:
        patterns = [re.compile(_filled(p, site.held)) for p in self.allow]
        for name, array in data.items():
            plain = isinstance(name, str) and WORDS.fullmatch(name)
            if not plain or not any(p.fullmatch(name) for p in patterns):
                raise refused("tensors this site lets out", f"{len(data)} with another among them")
            found = BY_MODALITY.match(name)
            if name.startswith(PERSONAL) or (found and found[1] not in {*site.held, "fused"}):
                raise refused("tensors of modalities this site holds", f"'{name}'")
            require_plain(name, array)
        size = sum(array.nbytes for array in data.values())
        if not data or size > self.limit_mb * 1e6:
            raise refused(f"1 byte to {self.limit_mb:g} MB of tensors", f"{size} bytes")
        require_contract(data, contract, site.held, way)
        require_votes(data, site.settings.minimum_cell)
        require_silence(data)
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


def _may_send(task: object, site: Site) -> bool:
    """Whether tensors may leave in answer to a task."""
    return task == TRAIN or (task == ANCHOR and site.offers_anchor)


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
