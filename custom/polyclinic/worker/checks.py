"""What a site's training process looks at before it believes a message or lets one go."""

from collections.abc import Mapping

import numpy as np

from polyclinic.anchor_site import anchors_fault
from polyclinic.errors import ContractViolation
from polyclinic.evaluation.metrics import METRIC_NAME
from polyclinic.exchange import PERSONAL, Contract, Tensors, Way
from polyclinic.filters import filters_fault


def checked(
    tensors: Tensors,
    contract: Contract,
    held: tuple[str, ...],
    way: Way = "train",
    *,
    slack: float = 1.0,
) -> Tensors:
    """The tensors, when every one of them is as the contract has it for these modalities and way.

    ``slack`` widens the bound, which the contract gives for an update, to that of values.

    Raises:
        ContractViolation: a name, shape, dtype or value that the contract does not allow.
    """
    allowed = contract.names_for(held, way)
    for name, array in tensors.items():
        spec = contract.specs.get(name)
        if spec is None or name not in allowed or name.startswith(PERSONAL):
            expected, got = "names that this site exchanges", f"'{name}'"
        elif array.shape != spec.shape or array.dtype.name != spec.dtype:
            expected = f"'{name}' as {spec.dtype} {spec.shape}"
            got = f"{array.dtype.name} {array.shape}"
        elif not np.isfinite(array).all():
            expected, got = f"finite numbers in '{name}'", "NaN or infinity"
        elif array.size and max(-float(array.min()), float(array.max())) > spec.bound * slack:
            expected, got = f"'{name}' within ±{spec.bound * slack:g}", "larger numbers"
        else:
            continue
        raise _broken(expected, got)
    return tensors


def telling(tensors: Tensors) -> Tensors:
    """The tensors of an update, when no personal filter and no unknown anchor is among them.

    Raises:
        ContractViolation: one is, or a mask or vote is no mask or vote.
    """
    for expected, fault in (
        ("personal filters that tell nothing", filters_fault(tensors)),
        ("anchors that are known", anchors_fault(tensors)),
    ):
        if fault:
            raise _broken(expected, fault)
    return tensors


def floored(scalars: Mapping[str, float], minimum_cell: int) -> dict[str, float]:
    """Counts ``n`` and ``n.<modality>``, small ones raised to the smallest that may be told.

    Where a count is of records, ``large_enough`` has seen to it that patients enough are behind it.
    """
    counts = {k: v for k, v in scalars.items() if k == "n" or k.startswith("n.")}
    return {k: float(max(v, minimum_cell) if v > 0 else 0.0) for k, v in counts.items()}


def listed(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics, when every name is on the list and every value finite.

    Raises:
        ContractViolation: another name, or a value that is no finite number.
    """
    wrong = sorted(
        k for k, v in metrics.items() if not METRIC_NAME.fullmatch(k) or not np.isfinite(v)
    )
    if wrong:
        raise ContractViolation(
            expected="finite metrics of polyclinic.evaluation.metrics",
            got=f"{len(wrong)} other(s), first '{wrong[0]}'",
            remedy="report only listed metrics",
            owner="researcher",
        )
    return {k: float(v) for k, v in metrics.items()}


def _broken(expected: str, got: str) -> ContractViolation:
    return ContractViolation(
        expected=expected,
        got=got,
        remedy="make both halves use one contract",
        owner="researcher",
    )
