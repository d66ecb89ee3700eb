"""The site that does the server's training step between rounds: who it is, and what it may answer.

Some algorithms train the folded model once more on data that have every modality, and take anchors
from there, before it is broadcast. A site that holds every modality of the study and says so in its
``polyclinic.yaml`` does that step as an ordinary client task, so the server needs no data.

    store.anchor.<level>  (A, W)  rows of anchors     store.anchor.known  (A,)  1 where there is one
"""

from collections.abc import Iterable, Mapping

import numpy as np

from polyclinic.exchange import STORE, Array

ANCHORS = STORE + "anchor."
KNOWN = ANCHORS + "known"


def elected(offers: Mapping[str, Iterable[str]], wanted: Iterable[str], pinned: str = "") -> str:
    """The anchor site: the first by name of those that hold every modality; "" when there is none.

    Args:
        offers: modalities held, by site that offers itself.
        wanted: modalities of the study.
        pinned: the only one that may be, where the server names one.
    """
    every = set(wanted)
    fit = [s for s in sorted(offers) if every <= set(offers[s]) and pinned in ("", s)]
    return fit[0] if fit else ""


def anchors_fault(tensors: Mapping[str, Array]) -> str:
    """What is wrong with the anchors among these tensors, in a few words; "" for nothing.

    An anchor that is not known is 0 and tells nothing.
    """
    levels = {n: a for n, a in tensors.items() if n.startswith(ANCHORS) and n != KNOWN}
    known = tensors.get(KNOWN)
    if known is None:
        return "anchors that do not say which are known" if levels else ""
    if known.ndim != 1 or not np.isin(known, (0, 1)).all():
        return "other votes than 0 and 1 on what is known"
    for rows in levels.values():
        if len(rows) != len(known):
            return "more or fewer anchors than votes"
        unknown = rows[known == 0]
        if unknown.any() or np.signbit(unknown).any():
            return "an anchor that is not known"
    return ""
