"""Which filters of a shared decoder a site keeps for itself, and how much its others weigh.

FedMEPD's rule (Liu et al., Medical Image Analysis 2025, arXiv 2603.04887), every step of it at the
site: it needs the site's own training and two consecutive broadcasts, nothing of other sites. All
of it is arithmetic over whole tensors; filters are numbered as in ``polyclinic.filters``.

    j filter: one output channel of a convolution   r round   i site   s server
    Δw_j^i  change of filter j in site i's training of round r
    Δw_j^s  change of the server's filter j over round r: the difference of two broadcasts
    δ_j = cos(Δw_j^s, Δw_j^i)   q_j patience left   P patience   B_j = 1[q_j > 0] (1 federated)
    H_j weight of site i's filter j in the server's mean

    (1) δ_j < 0: q_j <- q_j - 1;   δ_j > 0: q_j <- P;   δ_j = 0: as it was;   q_j = 0 stays 0
    (2) H_j <- a H_j + (1 - a) (||Δw_j^s|| / ||Δw_j^i||) n_i / Σ n, a = .95;  H_j <- 0 where B_j = 0
    (3) w_j <- B_j w_j^s + (1 - B_j) w_j^i, weight and bias alike
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from polyclinic.exchange import PERSONAL, Array, Tensors
from polyclinic.filters import DECODER, FilterLayout, layout_of
from polyclinic.models.tensors import difference

Floats = npt.NDArray[np.float64]
SMALLEST = 1e-12
LARGEST_RATIO = 10.0
_PLACE = PERSONAL + "filter."


def decoder_of(tensors: Mapping[str, Array]) -> Tensors:
    """The tensors of the decoder among these."""
    return {n: np.asarray(a) for n, a in tensors.items() if n.startswith(DECODER)}


def _norms_and_products(
    first: Mapping[str, Array], second: Mapping[str, Array], layout: FilterLayout
) -> tuple[Floats, Floats, Floats]:
    """||a_j||, ||b_j|| and a_j · b_j of every filter's weight, (F,) each; biases follow theirs."""
    a_norm, b_norm, product = (np.zeros(layout.size) for _ in range(3))
    for prefix, rows in layout.slices.items():
        a = np.asarray(first[f"{prefix}.weight"], np.float32).reshape(rows.stop - rows.start, -1)
        b = np.asarray(second[f"{prefix}.weight"], np.float32).reshape(a.shape)
        a_norm[rows] = np.sqrt(np.einsum("fk,fk->f", a, a))
        b_norm[rows] = np.sqrt(np.einsum("fk,fk->f", b, b))
        product[rows] = np.einsum("fk,fk->f", a, b)
    return a_norm, b_norm, product


def discrepancy(
    server: Mapping[str, Array], site: Mapping[str, Array], layout: FilterLayout
) -> Floats:
    """δ (F,); 0 for a filter that did not move at the server or at the site."""
    s_norm, i_norm, product = _norms_and_products(server, site, layout)
    size = s_norm * i_norm
    return np.divide(product, size, out=np.zeros_like(size), where=size > SMALLEST**2)


def waited(patience: Array, delta: Floats, *, limit: int) -> npt.NDArray[np.float32]:
    """q (F,) after a round.  (1)"""
    q = np.asarray(patience, dtype=np.float32)
    moved = np.where(delta < 0, q - 1, np.where(delta > 0, np.float32(limit), q))
    return np.where(q > 0, moved, np.float32(0)).astype(np.float32)


def federated(patience: Array) -> npt.NDArray[np.uint8]:
    """B (F,): 1 where a filter is federated."""
    return np.asarray(np.asarray(patience, np.float32) > 0, dtype=np.uint8)


def normaliser(
    weight: Array,
    server: Mapping[str, Array],
    site: Mapping[str, Array],
    layout: FilterLayout,
    *,
    share: float,
    keep: float = 0.95,
) -> npt.NDArray[np.float32]:
    """H (F,) after a round, before personal filters get 0.  (2)

    The published ratio may divide by 0: it is held to [0, 10].

    Args:
        share: n_i / Σ n, the true one; the authors' code has one cohort's sizes written in.
        keep: a.
    """
    s_norm, i_norm, _ = _norms_and_products(server, site, layout)
    ratio = np.clip(s_norm / np.maximum(i_norm, SMALLEST), 0.0, LARGEST_RATIO)
    # Neither moved: there is nothing to compare, and H keeps its value.
    still = np.maximum(s_norm, i_norm) <= SMALLEST
    moved = keep * np.asarray(weight, dtype=np.float64) + (1.0 - keep) * ratio * share
    return np.where(still, weight, moved).astype(np.float32)


def overlay(broadcast: Mapping[str, Array], own: Mapping[str, Array], mask: Array) -> Tensors:
    """The decoder a site trains: its own rows where a filter is personal.  (3)

    Rows are copied, never blended, so that a personal filter is the same bit for bit.
    """
    layout = layout_of(broadcast)
    out: Tensors = {}
    for name, value in broadcast.items():
        rows = layout.rows(name)
        out[name] = np.array(value, dtype=np.float32)
        if rows is not None and name in own:
            personal = np.asarray(mask[rows]) == 0
            out[name][personal] = own[name][personal]
    return out


@dataclass(frozen=True)
class FilterMemory:
    """What a site remembers between rounds, on its own disk.

    Attributes:
        patience: q (F,).
        weight: H (F,).
        seen: the broadcast decoder of ``round``.
        moved: Δw^i, what training changed in the round after it; empty before any.
        own: the decoder after that training.
        round: of the broadcast.
    """

    patience: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    seen: Tensors
    moved: Tensors
    own: Tensors
    round: int

    @classmethod
    def fresh(cls, layout: FilterLayout, limit: int) -> "FilterMemory":
        """Before the first round: full patience, H = 1; of a limit of 0 all are personal."""
        full = np.full(layout.size, limit, dtype=np.float32)
        return cls(full, np.ones(layout.size, dtype=np.float32), {}, {}, {}, -1)

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
        """B (F,)."""
        return federated(self.patience)

    def trained(self, seen: Tensors, moved: Tensors, own: Tensors, number: int) -> "FilterMemory":
        """The memory after training on the broadcast of this number."""
        return replace(self, seen=seen, moved=moved, own=own, round=number)

    def after(
        self, decoder: Tensors, t: int, *, limit: int, share: float, keep: float
    ) -> "FilterMemory":
        """(1) and (2) for the round that ended with the broadcast ``decoder`` of round ``t``.

        Only where that broadcast follows the one this site trained on: after a missed round the
        server's change is that of several rounds, and says nothing of the site's one.
        """
        if not self.moved or self.round != t - 1:
            return self
        layout = layout_of(decoder)
        server = difference({n: decoder[n] for n in self.moved}, self.seen)
        delta = discrepancy(server, self.moved, layout)
        weight = normaliser(self.weight, server, self.moved, layout, share=share, keep=keep)
        patience = waited(self.patience, delta, limit=limit)
        return replace(self, patience=patience, weight=weight * federated(patience))

    def tensors(self) -> Tensors:
        """As personal tensors."""
        kept: Tensors = {
            f"{_PLACE}patience": self.patience,
            f"{_PLACE}weight": self.weight,
            f"{_PLACE}round": np.array([self.round], dtype=np.float32),
        }
        for what, part in (("seen", self.seen), ("moved", self.moved), ("own", self.own)):
            kept |= {f"{_PLACE}{what}.{n}": np.asarray(a) for n, a in part.items()}
        return kept

    @classmethod
    def of(cls, kept: Mapping[str, Array], layout: FilterLayout, limit: int) -> "FilterMemory":
        """From personal tensors; fresh where there are none of this decoder."""
        patience = kept.get(f"{_PLACE}patience")
        if patience is None or patience.shape != (layout.size,):
            return cls.fresh(layout, limit)
        seen, moved, own = (
            {n.removeprefix(p): np.asarray(a) for n, a in kept.items() if n.startswith(p)}
            for p in (f"{_PLACE}seen.", f"{_PLACE}moved.", f"{_PLACE}own.")
        )
        weight = np.asarray(kept[f"{_PLACE}weight"], dtype=np.float32)
        number = int(kept[f"{_PLACE}round"][0])
        return cls(np.asarray(patience, dtype=np.float32), weight, seen, moved, own, number)
