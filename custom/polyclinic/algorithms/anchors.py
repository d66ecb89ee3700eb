"""Full-modal anchors: what each class looks like, at each level of the decoder, to a complete scan.

FedMEPD (arXiv 2603.04887) and FedMEMA (AAAI 2024). Computed at the anchor site while it trains.

    s patient of the anchor site   l level, C_l features there   c class   k = 1..N_k slot
    F_{s,l} fused features   y_s classes of the voxels   ω EMA

    (1) a_{s,l,c} = Σ_v F_{s,l}(v) 1[y_s(v) = c] / Σ_v 1[y_s(v) = c], F brought to the mask's
        size by nearest neighbour; over all crops of s in the epoch; none where s lacks c
    (2) round 0: k-means of a_{.,L,c} at the deepest level L for every class; whoever is in a
        cluster stays in it; A_{l,c,k} = mean of a_{s,l,c} over its members
    (3) later: A <- ω A + (1 - ω) mean over members, at first A <- mean

[Reconstructed, where paper and code leave room] In the authors' code a class that is absent from
a crop enters k-means and (3) as zeros: here it does not enter. A patient without the class in
round 0 joins the nearest cluster when it is first seen; a class without an anchor has its (2) when
it is. ``matching`` nearest assigns every patient anew each round, as the paper's text may be read.
A cluster of fewer patients than the site's smallest cell would show them: it is joined to its
nearest, and what is still too small has no anchor; the mean of fewer in a round changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from polyclinic.exchange import PERSONAL, STORE, Array, Tensors, TensorSpec

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Matching = Literal["frozen", "nearest"]

ANCHOR = STORE + "anchor."
KNOWN = ANCHOR + "known"
MEMBER = PERSONAL + "anchor.member"
RENEWALS = PERSONAL + "anchor.renewals"
ITERATIONS = 30
STARTS = 4
NOBODY = -1


def level_name(level: int) -> str:
    """``store.anchor.l1`` is of the finest level."""
    return f"{ANCHOR}l{level}"


def anchor_specs(widths: Sequence[int], classes: int, slots: int) -> dict[str, TensorSpec]:
    """The contract's lines: a row per class and slot, class by class."""
    rows = classes * slots
    specs = {
        level_name(i): TensorSpec((rows, width), bound=1e4, ways=("state", "anchor"))
        for i, width in enumerate(widths, start=1)
    }
    return specs | {KNOWN: TensorSpec((rows,), bound=1.0, ways=("state", "anchor"))}


def class_sums(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Σ_v F(v) 1[y(v) = c] (B, C, W) and Σ_v 1[y(v) = c] (B, C).  Numerator and denominator of (1)

    Features are not enlarged: the voxels of each class that fall to a feature are counted instead,
    which is the same sum.

    Args:
        features: (B, W, i, j, k), or (B, W, i, j) of slices.
        labels: (B, I, J, K) class indices.
    """
    counts = torch.nn.functional.one_hot(labels, classes).to(features)  # (B, I, J, K, C)
    if features.dim() == 4:
        features = features[..., None]
    for axis, small in enumerate(features.shape[2:], start=1):
        large = counts.shape[axis]
        # Nearest neighbour: voxel v takes feature floor(v · small / large).
        place = torch.arange(large, device=counts.device) * small // large
        shape = [*counts.shape]
        shape[axis] = small
        counts = counts.new_zeros(shape).index_add_(axis, place, counts)
    sums = torch.einsum("bwijk,bijkc->bcw", features, counts)
    return sums, counts.sum(dim=(1, 2, 3))


@dataclass
class SampleMeans:
    """a_{s,l,c} of an epoch, as running sums.

    Attributes:
        sums: by level, (S, C, C_l).
        voxels: (S, C).
    """

    sums: list[Floats]
    voxels: Floats

    @classmethod
    def empty(cls, patients: int, widths: Sequence[int], classes: int) -> "SampleMeans":
        """Nothing seen yet."""
        seen = (patients, classes)
        return cls([np.zeros((*seen, w)) for w in widths], np.zeros(seen))

    def add(self, rows: Tensor, features: Sequence[Tensor], labels: Tensor) -> None:
        """Count a batch; ``rows`` (B,) says whose each row is."""
        where = rows.cpu().numpy()
        found = [class_sums(f.detach(), labels, self.voxels.shape[1]) for f in features]
        totals = [sums.double().cpu().numpy() for sums, _ in found]
        if not all(np.isfinite(total).all() for total in totals):
            return  # the step that met such a number leaves its patients out, too
        for place, total in zip(self.sums, totals, strict=True):
            np.add.at(place, where, total)
        np.add.at(self.voxels, where, found[0][1].double().cpu().numpy())

    def means(self, level: int) -> Floats:
        """(S, C, C_l) of a level by index; NaN where a patient lacks a class.  (1)"""
        voxels = np.where(self.voxels > 0, self.voxels, np.nan)
        return self.sums[level] / voxels[..., None]

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Which patient showed which class; (S, C)."""
        return self.voxels > 0


def clustered(points: Floats, slots: int, least: int, seed: int) -> Ints:
    """Cluster (n,) of each point, numbered from 0; -1 for all where they are fewer than ``least``.

    K-means, after which a cluster smaller than ``least`` joins the one with the nearest centre.
    """
    count = min(slots, len(np.unique(points, axis=0)))
    if len(points) < max(least, 1) or not count:
        return np.full(len(points), NOBODY)
    means = KMeans(count, n_init=STARTS, max_iter=ITERATIONS, random_state=seed % 2**32)
    found: Ints = means.fit_predict(points).astype(np.int64)
    while True:
        names, sizes = np.unique(found, return_counts=True)
        if len(names) == 1 or sizes.min() >= least:
            return np.searchsorted(names, found)
        small = names[sizes.argmin()]
        centres = {n: points[found == n].mean(0) for n in names}
        others = [n for n in names if n != small]
        gaps = [np.linalg.norm(centres[n] - centres[small]) for n in others]
        found[found == small] = others[int(np.argmin(gaps))]


def member_means(points: Floats, member: Ints, slots: int, least: int) -> tuple[Floats, Ints]:
    """Mean (N_k, W) of each cluster and how many patients are behind it; 0 where too few."""
    out, counts = np.zeros((slots, points.shape[1])), np.zeros(slots, dtype=np.int64)
    there = np.isfinite(points).all(axis=1)
    for k in range(slots):
        mine = there & (member == k)
        if mine.sum() >= max(least, 1):
            out[k], counts[k] = points[mine].mean(0), int(mine.sum())
    return out, counts


def nearest(points: Floats, centres: Floats, known: npt.NDArray[np.bool_]) -> Ints:
    """The known centre next to each point; -1 where there is none, or no point."""
    if not known.any():
        return np.full(len(points), NOBODY)
    gaps = np.linalg.norm(np.nan_to_num(points)[:, None] - centres[None], axis=2)
    gaps[:, ~known] = np.inf
    return np.where(np.isfinite(points).all(axis=1), gaps.argmin(1), NOBODY)


@dataclass(frozen=True)
class Anchors:
    """A_{l,c,k}, and who is behind them.

    Attributes:
        levels: by level, (C · N_k, C_l), class by class.
        known: (C · N_k,) bool; an unknown anchor is 0 and no key of the attention.
        member: (S, C) cluster of each patient in each class, -1 for none; stays at the site.
        renewals: how often they were made or renewed.
    """

    levels: tuple[npt.NDArray[np.float32], ...]
    known: npt.NDArray[np.bool_]
    member: Ints = field(repr=False)
    renewals: int = 0

    @classmethod
    def of(cls, state: Mapping[str, Array], kept: Mapping[str, Array], patients: int) -> "Anchors":
        """From what was broadcast and what the site remembers.

        Membership of another number of patients is forgotten: the cohort has changed.
        """
        levels: list[npt.NDArray[np.float32]] = []
        while level_name(len(levels) + 1) in state:
            levels.append(np.asarray(state[level_name(len(levels) + 1)], dtype=np.float32))
        known = np.asarray(state[KNOWN], dtype=np.float32) > 0
        member, renewals = kept.get(MEMBER), kept.get(RENEWALS)
        if member is None or renewals is None or len(member) != patients:
            return cls(tuple(levels), known, np.zeros((0, 0), dtype=np.int64))
        return cls(tuple(levels), known, np.asarray(member, dtype=np.int64), int(renewals[0]))

    def tensors(self) -> Tensors:
        """As they cross the wall."""
        out: Tensors = {level_name(i): a for i, a in enumerate(self.levels, start=1)}
        return out | {KNOWN: self.known.astype(np.float32)}

    def memory(self) -> Tensors:
        """What stays at the anchor site."""
        renewals = np.array([self.renewals], dtype=np.float32)
        return {MEMBER: self.member.astype(np.float32), RENEWALS: renewals}


def renewed(
    old: Anchors,
    found: SampleMeans,
    *,
    slots: int,
    least: int,
    omega: float,
    matching: Matching,
    seed: int,
) -> Anchors:
    """The anchors after an epoch at the anchor site.  (2), (3)

    Args:
        least: fewest patients behind an anchor.
        omega: ω; the first renewal after (2) takes the new means whole, as the authors' code does.
    """
    deepest = found.means(-1)
    begins = not old.member.size
    blend = omega if old.renewals > 1 else 0.0
    member = np.full(found.voxels.shape, NOBODY) if begins else old.member.copy()
    levels, known = [a.copy() for a in old.levels], old.known.copy()
    for c in range(found.voxels.shape[1]):
        rows, seen = slice(c * slots, (c + 1) * slots), found.seen[:, c]
        centres = levels[-1][rows].astype(np.float64)
        # Frozen by the site's own memory: a state that knows no anchor divides nobody anew.
        lost = matching == "nearest" and not known[rows].any()
        if begins or lost or (member[:, c] == NOBODY).all():
            member[:, c] = NOBODY
            member[seen, c] = clustered(deepest[seen, c], slots, least, seed + c)
            known[rows] &= (member[:, c] == NOBODY).all()  # of another cohort: replaced whole
        elif matching == "nearest":
            member[:, c] = nearest(deepest[:, c], centres, known[rows])
        else:
            new = seen & (member[:, c] == NOBODY)
            member[new, c] = nearest(deepest[new, c], centres, known[rows])
        for level, place in enumerate(levels):
            means, counts = member_means(found.means(level)[:, c], member[:, c], slots, least)
            fresh = counts > 0
            share = blend * known[rows, None]
            kept = np.where(known[rows, None], place[rows], 0.0)
            blended = share * kept + (1.0 - share) * means
            place[rows] = np.where(fresh[:, None], blended, kept)
        known[rows] |= fresh
    return Anchors(tuple(levels), known, member, old.renewals + 1)
