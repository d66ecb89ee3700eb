"""The server's guard: an update is taken whole or refused whole, before anything is added up.

It is a plain object that the aggregator calls, not a FLARE task-result filter, for three reasons.
A filter is told who sent the update only by the sender's own context, while the aggregator has the
authenticated client of the task; a job can leave a filter out, but has no aggregation without the
aggregator; and a filter runs under the lock that every site's requests wait for.

Guarantees: an update that ``check`` returns
    * carries differences (never values), under exactly the names of the contract for the
      modalities that the site announced, so only complete groups;
    * has for each name the exact dtype and shape (nothing is broadcast), finite entries, and no
      entry larger in magnitude than the contract allows;
    * claims at least one training patient, and of no count more than its site announced in the
      census, which in turn is at most ``most_patients``;
    * is silent about filters that its site keeps for itself: rows and weights of those are 0;
    * answers the round that is open.
``check_anchor`` guarantees the same of the anchor site's update, which has no weight in a mean and
may claim no patient, under the names of the contract's way ``anchor``; there, moreover, an anchor
that is not known is 0.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from nvflare.apis.dxo import DataKind

from polyclinic.anchor_site import anchors_fault
from polyclinic.errors import ContractViolation
from polyclinic.evaluation.metrics import LONGEST_NAME, MOST_METRICS
from polyclinic.exchange import STORE, Contract, TensorSpec, Update, Way
from polyclinic.filters import filters_fault
from polyclinic.flare.convert import Reply, is_number

_SCALAR = re.compile(r"t|round|n(\.[a-z][a-z0-9_]{0,31})?")
_METRIC = re.compile(rf"[a-z][a-z0-9_+./-]{{0,{LONGEST_NAME - 1}}}")
# A figure of the report could not draw more; no loss that trains comes near.
LARGEST_METRIC = 1e12
MOST_PATIENTS = 100_000
_COUNT = STORE + "count."


class Refused(ContractViolation):
    """An update that the guard turned away; ``reason`` is what the ledger says."""

    def __init__(self, reason: str, *, expected: str, got: str) -> None:
        super().__init__(
            expected=expected, got=got, remedy="mend the site; its round is not counted"
        )
        self.reason = reason


@dataclass(frozen=True)
class UpdateGuard:
    """Checks replies against a contract.

    Attributes:
        contract: every tensor that may cross the wall.
    """

    contract: Contract

    def check(
        self, reply: Reply, held: Iterable[str], counts: Mapping[str, float], t: int
    ) -> Update:
        """The update of a training reply.

        Args:
            reply: what came.
            held: modalities that the site announced in its census.
            counts: ``n`` and ``n.<modality>`` that it announced; a count it did not announce is 0.
            t: the round that is open.

        Raises:
            Refused: with one of the reasons kind, stale, names, type, dtype, shape, not_finite,
                magnitude, mask, anchors, weight, scalars, metrics.
        """
        return self._check(reply, frozenset(held), counts, t, "train")

    def check_anchor(
        self, reply: Reply, held: Iterable[str], counts: Mapping[str, float], t: int
    ) -> Update:
        """The update of the anchor site's reply; arguments and refusals are those of ``check``.

        Args:
            t: the round that the state was folded in.
        """
        return self._check(reply, frozenset(held), counts, t, "anchor")

    def _check(
        self, reply: Reply, held: frozenset[str], counts: Mapping[str, float], t: int, way: Way
    ) -> Update:
        if reply.kind != DataKind.WEIGHT_DIFF.value:
            raise Refused("kind", expected="differences", got="another kind of data")
        self._check_names(reply, held, way)
        for name, spec in self.contract.specs.items():
            if name in reply.tensors:
                _check_tensor(name, reply.tensors[name], spec)
        for reason, fault in (
            ("mask", filters_fault(reply.tensors)),
            ("anchors", anchors_fault(reply.tensors)),
        ):
            if fault:
                raise Refused(reason, expected="silence about what a site keeps", got=fault)
        scalars = _check_scalars(reply, held, counts, least=1 if way == "train" else 0)
        if scalars.pop("t", None) != t:
            raise Refused("stale", expected=f"an answer to round {t}", got="another round's")
        _check_class_counts(reply, counts)
        self.check_metrics(reply)
        return Update(dict(reply.tensors), scalars)

    def check_metrics(self, reply: Reply) -> dict[str, float]:
        """The metrics of any reply.

        Raises:
            Refused: ``metrics`` when one is not a finite number under a plain name.
        """
        good = len(reply.metrics) <= MOST_METRICS and all(
            isinstance(name, str)
            and _METRIC.fullmatch(name)
            and is_number(value)
            and abs(value) <= LARGEST_METRIC
            for name, value in reply.metrics.items()
        )
        if not good:
            raise Refused("metrics", expected="finite numbers under plain names", got="others")
        return {name: float(value) for name, value in reply.metrics.items()}

    def _check_names(self, reply: Reply, held: frozenset[str], way: Way) -> None:
        """Raise unless the names are exactly those that such a site sends."""
        names = self.contract.names_for(held, way)
        came = set(reply.tensors)
        if came != names:
            got = f"{len(came - names)} unknown, {len(names - came)} missing"
            raise Refused("names", expected=f"exactly the {len(names)} names it holds", got=got)


def _check_scalars(
    reply: Reply, held: frozenset[str], counts: Mapping[str, float], least: int
) -> dict[str, float]:
    """The scalars as floats: counts of patients, in all and by announced modality."""
    allowed = {"t", "round", "n", *(f"n.{m}" for m in held)}
    for name, value in reply.scalars.items():
        if not isinstance(name, str) or not _SCALAR.fullmatch(name) or name not in allowed:
            raise Refused("scalars", expected="patient counts", got="another scalar")
        if not is_number(value):
            raise Refused("weight", expected=f"a finite number as '{name}'", got="another")
        if name.startswith("n") and not 0 <= value <= counts.get(name, 0.0):
            raise Refused("weight", expected=f"no more of '{name}' than announced", got="more")
    if not reply.scalars.get("n", 0) >= least:
        raise Refused("weight", expected="at least one training patient", got="fewer")
    return {name: float(value) for name, value in reply.scalars.items()}


def _check_class_counts(reply: Reply, counts: Mapping[str, float]) -> None:
    """Raise when a tensor claims more patients of a class than were announced in all."""
    for name, value in reply.tensors.items():
        most = counts.get(f"n.{name.removeprefix(_COUNT)}", 0.0)
        if name.startswith(_COUNT) and not (value.min() >= 0 and value.max() <= most):
            raise Refused("weight", expected=f"no more in '{name}' than announced", got="more")


def _check_tensor(name: str, value: object, spec: TensorSpec) -> None:
    """Raise unless one tensor is what its contract line says."""
    if type(value) is not np.ndarray:
        raise Refused("type", expected=f"'{name}' as an array", got=type(value).__name__)
    if value.dtype.name != spec.dtype:
        raise Refused("dtype", expected=f"'{name}' as {spec.dtype}", got=value.dtype.name)
    if value.shape != spec.shape:
        raise Refused("shape", expected=f"'{name}' {spec.shape}", got=str(value.shape))
    if value.size == 0:
        return
    # One pass without a copy: a NaN makes both extremes NaN, an infinity is one of them.
    low, high = float(value.min()), float(value.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Refused("not_finite", expected=f"finite numbers in '{name}'", got="NaN or infinity")
    if max(-low, high) > spec.bound:
        raise Refused("magnitude", expected=f"'{name}' within ±{spec.bound}", got="a larger entry")
