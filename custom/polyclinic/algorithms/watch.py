"""A watch over a run's embeddings, which stops one that runs away or collapses.

A site looks at its own training patients after each round. What it must remember, the size of the
embeddings by round, is in the personal tensors.

    s_t root mean square of an embedding's components in round t
    v variance over patients, b the part of it between classes; both over the mean square
    n patients, C classes

Runaway: s_t above ``runaway`` times the larger of s_1 and 1, the size under a LayerNorm, while s
grew in each of the last three rounds and by half or more in all. The trap of
``polyclinic.algorithms.fedmm`` grows by 40 to 80 % a round without end. Encoders without a norm
start anywhere below 1, reach it within some rounds, and may then drift by 5 % a round unharmed.

Collapse: v below ``collapse``, and b no more of v than chance gives: b / v <= 3 (C-1)/(n-1). A
small variance alone is none: deep ReLU encoders start at 6e-5 and recover, and under a strong
pull 1e-4 can carry the classes.
"""

import numpy as np

from polyclinic.algorithms.prototypes import Statistics
from polyclinic.errors import TrainingDiverged
from polyclinic.exchange import PERSONAL, Tensors
from polyclinic.objectives.prototype import EmbeddingStatistics

SIZES = PERSONAL + "watch."
GROWING = 3  # rounds of growth that make a runaway; no run is stopped before this round
FAST = 1.5  # growth over those rounds
CHANCE = 3.0
# Embeddings that are equal in float32 still differ by its rounding.
ROUNDING = 1e-12

Sizes = np.ndarray[tuple[int], np.dtype[np.float32]]


def watch(found: Statistics, kept: Tensors, *, runaway: float, collapse: float) -> Tensors:
    """Personal tensors with this round's sizes; sizes before it are those in ``kept``.

    Args:
        runaway: how many times its size after the first round, or 1, an embedding may reach
            while it grows fast.
        collapse: least variance over patients, as a share of the mean square.

    Raises:
        TrainingDiverged: naming the modality.
    """
    sizes: Tensors = {}
    for m, statistics in found.items():
        before = np.asarray(kept.get(SIZES + m, np.zeros(0)), dtype=np.float32)
        if int(statistics.class_count.sum()) < 2:
            sizes[SIZES + m] = before
            continue
        size = statistics.mean_square**0.5
        if not size <= float(np.finfo(np.float32).max):
            raise _diverged(m, "of a finite size", f"{size:.3g}")
        history = np.append(before, np.float32(size))
        sizes[SIZES + m] = history
        if len(history) < GROWING:
            continue
        if _runs_away(history, runaway):
            raise _diverged(
                m,
                f"no larger than {_most(history, runaway):.3g}, or not growing fast",
                f"{size:.3g} after {len(history)} rounds, {history[0]:.3g} after the first",
            )
        if collapsed(statistics, collapse):
            share = statistics.variance / statistics.mean_square if size else 0.0
            raise _diverged(
                m,
                f"that differ between patients by {collapse:g} of their size, or between classes",
                f"{share:.2g}, and classes no further apart than by chance",
            )
    return sizes


def collapsed(statistics: EmbeddingStatistics, collapse: float) -> bool:
    """Whether variance over patients is nil and what is left of it does not tell the classes."""
    size, variance = statistics.mean_square, statistics.variance
    if variance >= collapse * size and size > 0:
        return False
    seen = int((statistics.class_count > 0).sum())
    chance = CHANCE * max(seen - 1, 0) / (int(statistics.class_count.sum()) - 1)
    return statistics.between <= chance * max(variance, ROUNDING * size)


def _runs_away(history: Sizes, runaway: float) -> bool:
    """Whether the last size is too large, and the last rounds led there fast."""
    if len(history) <= GROWING:
        return False
    last = history[-GROWING - 1 :]
    fast = bool((np.diff(last) > 0).all()) and last[-1] > FAST * last[0]
    return bool(fast and history[-1] > _most(history, runaway))


def _most(history: Sizes, runaway: float) -> float:
    """The largest size that is no runaway."""
    return runaway * max(float(history[0]), 1.0)


def _diverged(modality: str, expected: str, got: str) -> TrainingDiverged:
    return TrainingDiverged(
        expected=f"embeddings of '{modality}' {expected}",
        got=got,
        remedy="set the encoder's norm to layer, or lower beta or lr",
    )
