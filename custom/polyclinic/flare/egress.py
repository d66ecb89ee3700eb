"""The last look before the wall: a site-owned filter that lets out only what it knows.

Guarantees, for every reply the filter returns:

- it is built anew from parts that were checked one by one; nothing else of the reply is kept;
- tensors are finite real arrays whose names match the site's patterns, belong to modalities the
  site holds, and are never ``personal.*``;
- scalars and metrics are finite numbers under listed names, and no count is below the site's
  smallest cell;
- an error carries a code, an owner and one sentence without paths, dates, numbers of persons;
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

from polyclinic.errors import ContractViolation, PolyclinicError, SiteError
from polyclinic.evaluation.metrics import METRIC_NAME
from polyclinic.exchange import PERSONAL
from polyclinic.flare.audit import EgressAudit
from polyclinic.flare.convert import CENSUS, ERROR, META, TRAIN, is_number
from polyclinic.flare.site import find_site

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
BY_MODALITY = re.compile(r"^(?:enc|head|store\.(?:proto|count))\.([^.]+)")
WORDS = re.compile(r"[A-Za-z0-9_.]{1,128}")
DTYPES = frozenset({"float16", "float32", "float64"})

COUNT = re.compile(r"^(n|quarantined)(\.[a-z][a-z0-9_]{0,31})?$")
SMALL = re.compile(r"/n(/|$)|^quarantined")
NUMBER = re.compile(r"^t$|" + COUNT.pattern)
NAME = re.compile(r"^[a-z][a-z0-9_]{0,31}$")
TEXT = {"fingerprint": re.compile(r"^[0-9a-f]{64}$"), "version": re.compile(r"^[0-9a-z.+]{1,32}$")}

OWNERS = ("researcher", "site IT", "data manager")
SENTENCE_LENGTH = 600
# What identifies a patient or a place has no place in a sentence. A second net, not a proof.
SUSPECT = re.compile(
    r"(?:^|[\s'\"(=:])~?/\w|[A-Za-z]:\\"  # absolute paths
    r"|\d{4}-\d\d-\d\d|\d{6}|\d{3}-\d\d"  # dates, record numbers, telephone numbers
    r"|\S@\S|\w\^\w"  # addresses, DICOM person names
    r"|\d+(?:\.\d+){3}"  # DICOM UIDs, network addresses
    r"|\b[A-Z0-9]{2,}(?:-[A-Z0-9]{2,}){2}"  # barcodes
)
WITHHELD = "The sentence stayed at the site: it held what may identify somebody."


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
        metrics = dxo.meta.pop(MetaKey.INITIAL_METRICS, {})
        scalars = dxo.meta.pop(META, {})
        dxo.meta.pop(MetaKey.FILTER_HISTORY, None)
        if dxo.meta:
            raise _refused("meta of this package", f"{len(dxo.meta)} other entries")
        if dxo.data_kind == DataKind.METRICS:
            clean = DXO(DataKind.METRICS, data=_metrics(dxo.data, least), meta={})
        elif dxo.data_kind == DataKind.WEIGHT_DIFF and task == TRAIN:
            clean = DXO(DataKind.WEIGHT_DIFF, data=self._tensors(dxo.data, site.held), meta={})
            clean.meta[MetaKey.INITIAL_METRICS] = _metrics(metrics, least)
        else:
            raise _refused(f"the kind of data that '{task}' sends", str(dxo.data_kind)[:32])
        clean.meta[META] = _scalars(scalars, site.held, least, names=task == CENSUS)
        return clean.to_shareable()

    def _only_dxo(self, shareable: Shareable) -> DXO:
        """A copy of the reply's one DXO; its headers are left behind."""
        others = set(shareable) - {"DXO", ReservedHeaderKey.HEADERS}
        if others:
            raise _refused("a single data exchange object", f"{len(others)} other entries")
        try:
            dxo = from_shareable(shareable)
        except (ValueError, TypeError, AttributeError) as error:
            raise _refused("a data exchange object", type(error).__name__) from None
        if not isinstance(dxo.data, dict) or set(shareable["DXO"]) - {"kind", "data", "meta"}:
            raise _refused("a data exchange object", "another structure")
        return DXO(dxo.data_kind, data=dict(dxo.data), meta=dict(dxo.meta or {}))

    def _tensors(self, data: Mapping[str, Any], held: Sequence[str]) -> dict[str, Any]:
        patterns = [re.compile(_filled(p, held)) for p in self.allow]
        for name, array in data.items():
            plain = isinstance(name, str) and WORDS.fullmatch(name)
            if not plain or not any(p.fullmatch(name) for p in patterns):
                raise _refused("tensors this site lets out", f"{len(data)} with another among them")
            found = BY_MODALITY.match(name)
            if name.startswith(PERSONAL) or (found and found[1] not in {*held, "fused"}):
                raise _refused("tensors of modalities this site holds", f"'{name}'")
            if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES:
                raise _refused(f"'{name}' as real numbers", type(array).__name__)
            if not np.isfinite(array).all():
                raise _refused(f"finite numbers in '{name}'", "NaN or infinity")
        size = sum(array.nbytes for array in data.values())
        if not data or size > self.limit_mb * 1e6:
            raise _refused(f"1 byte to {self.limit_mb:g} MB of tensors", f"{size} bytes")
        return dict(data)

    def _error(self, shareable: Shareable, code: str) -> Shareable:
        """An error without payload: FLARE's code and our four checked words."""
        if set(shareable) - {ReservedHeaderKey.HEADERS}:
            raise _refused("an error without payload", f"payload beside {code}")
        told = shareable.get_header(ERROR)
        clean = make_reply(code)
        if isinstance(told, Mapping):
            clean.set_header(ERROR, _sentence(told))
        return clean


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


def _metrics(metrics: object, least: int) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        raise _refused("metrics by name", type(metrics).__name__)
    for name, value in metrics.items():
        if not isinstance(name, str) or not METRIC_NAME.fullmatch(name) or not is_number(value):
            raise _refused("listed metrics with finite numbers", f"{len(metrics)} with another")
        if SMALL.search(name) and 0 < value < least:
            raise _refused(f"no count below {least}", "a smaller one")
    return {name: float(value) for name, value in metrics.items()}


def _scalars(scalars: object, held: Sequence[str], least: int, *, names: bool) -> dict[str, Any]:
    if not isinstance(scalars, Mapping):
        raise _refused("scalars by name", type(scalars).__name__)
    clean: dict[str, Any] = {}
    for name, value in scalars.items():
        if names and name == "modalities" and isinstance(value, list) and set(value) <= {*held}:
            clean[name] = list(value)
        elif names and name in TEXT and isinstance(value, str) and TEXT[name].match(value):
            clean[name] = value
        elif isinstance(name, str) and NUMBER.match(name) and is_number(value):
            if COUNT.match(name) and 0 < value < least:
                raise _refused(f"no count below {least}", "a smaller one")
            clean[name] = float(value)
        else:
            raise _refused("listed scalars", f"{len(scalars)} with another")
    return clean


def _sentence(told: Mapping[str, Any]) -> dict[str, str]:
    """Code, owner, message and incident of an error, each only when it has its form."""
    clean: dict[str, str] = {}
    code, owner = told.get("code"), told.get("owner")
    message, incident = told.get("message"), told.get("incident")
    if isinstance(code, str) and NAME.match(code):
        clean["code"] = code
    if owner in OWNERS:
        clean["owner"] = str(owner)
    if isinstance(message, str):
        safe = len(message) <= SENTENCE_LENGTH and not SUSPECT.search(message)
        clean["message"] = message if safe else WITHHELD
    if isinstance(incident, str) and re.fullmatch(r"[0-9a-f]{12}", incident):
        clean["incident"] = incident
    return clean


def _refused(expected: str, got: str) -> ContractViolation:
    return ContractViolation(
        expected=expected, got=got, remedy="nothing left the site; correct the job or the filter"
    )


def _misconfigured(expected: str, got: str) -> SiteError:
    return SiteError(expected=expected, got=got, remedy="correct local/privacy.json")
