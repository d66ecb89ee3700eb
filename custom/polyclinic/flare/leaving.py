"""Which tensors may leave a site: finite, exactly the contract's, and silent on what it keeps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polyclinic.anchor_site import anchors_fault
from polyclinic.exchange import Contract, Way
from polyclinic.filters import filters_fault
from polyclinic.flare.figures import refused

NUMBERS, MARKS = "float32", "uint8"
PROTO, COUNT = "store.proto.", "store.count."


def require_plain(name: str, array: object) -> None:
    """Pass finite real numbers, or marks of 0 and 1, in NumPy's own array, which has no room for
    anything else."""
    # A subclass may hide numbers behind a mask or carry attributes, a dtype carry metadata.
    if type(array) is not np.ndarray or array.dtype.name not in (NUMBERS, MARKS):
        raise refused(f"'{name}' as real numbers", type(array).__name__)
    if array.dtype.metadata or not array.dtype.isnative:
        raise refused(f"'{name}' as real numbers", "another layout")
    if not np.isfinite(array).all():
        raise refused(f"finite numbers in '{name}'", "NaN or infinity")
    if array.dtype.name == MARKS and array.max(initial=0) > 1:
        raise refused(f"marks of 0 and 1 in '{name}'", "other whole numbers")


def require_contract(
    data: Mapping[str, Any], contract: object, held: Sequence[str], way: Way
) -> None:
    """Pass exactly the tensors that a message of this way has by the contract, of all or some
    modalities held."""
    if not isinstance(contract, Contract):
        raise refused("the contract from the training process", "none")
    allowed = contract.names_for(held, way)
    holders = {contract.specs[n].holder for n in data if n in allowed} - {None}
    if set(data) != contract.names_for((h for h in holders if h), way):
        raise refused("the tensors of the job's contract", f"{len(data)} that differ from them")
    for name, array in data.items():
        spec = contract.specs[name]
        if array.shape != spec.shape or array.dtype.name != spec.dtype:
            raise refused(f"'{name}' as {spec.dtype} {spec.shape}", "another shape or dtype")


def require_votes(data: Mapping[str, Any], least: int) -> None:
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


def require_silence(data: Mapping[str, Any]) -> None:
    """Pass what tells nothing of personal filters and has no anchor that is not known."""
    if fault := filters_fault(data):
        raise refused("silence about filters that the site keeps", fault)
    if fault := anchors_fault(data):
        raise refused("anchors that are known", fault)
