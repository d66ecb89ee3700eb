"""Scores of class probabilities and of segmentations, per site; NumPy only.

A score that is not defined (AUROC with one class) is left out, never invented.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from polyclinic.task import Task

Float = npt.NDArray[np.floating]
Int = npt.NDArray[np.integer]

METRIC_NAME = re.compile(
    r"^(train|validation|test)/(auroc|auprc|balanced_accuracy|brier|loss|n)(/[a-z0-9_+]+)?$"
    r"|^(train|validation|test)/(dice|hd95)(/global|/(personal|global)/[a-z0-9_]+/[a-z0-9_+]+)?$"
    r"|^filters/personal$"
    r"|^(proto_norm|proto_separation|embedding_variance|head_norm)/[a-z0-9_]+$"
    r"|^seconds/(train|evaluate|load)$|^quarantined(/[a-z_]+)?$"
)
"""Names of metrics that may leave a site; the egress filter reads this."""

BY_LABEL = ("auroc", "auprc", "brier")
"""Scores of each label of a multi-label task, under ``<score>/<label>``."""

OVERLAPS = ("dice", "hd95")
"""Scores of a segmentation: ``<score>`` and ``<score>/global`` over all regions, and
``<score>/<model>/<region>/<subset>`` of one region, predicted from ``flair+t1ce``."""

THERE = "there/"
"""Beside them, of each region: which patients have it; stays at the site."""

MOST_METRICS = 512
"""Metrics of one reply: whoever sends or takes more refuses it whole."""

LONGEST_NAME = 256
"""Letters of a metric's name: a server refuses a reply with a longer one."""

MODELS = ("personal", "global")
"""Models of which a segmentation is scored; the first is the one that a site uses."""


def auroc(label: Int, score: Float) -> float | None:
    """Probability that a positive outranks a negative, ties counting one half.

    ``label`` is 0 or 1. None when only one class is there. A score that is not a number ranks as
    a tie with everything, so a broken model gets no credit.
    """
    positive = np.asarray(label) > 0
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if not n1 or not n0:
        return None
    values = np.asarray(score, dtype=np.float64)
    if not np.isfinite(values).all():
        return 0.5
    rank = midranks(values)
    return float((rank[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def midranks(values: Float) -> Float:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Float = (last - (counts - 1) / 2)[inverse]
    return middle


def auprc(label: Int, score: Float) -> float | None:
    """Average precision: Σ (R_j - R_{j-1}) P_j over distinct thresholds; None with one class."""
    positive = np.asarray(label) > 0
    if positive.all() or not positive.any():
        return None
    values = np.nan_to_num(np.asarray(score, dtype=np.float64))
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def balanced_accuracy(label: Int, chosen: Int, classes: int) -> float | None:
    """Mean recall over the classes; None unless every class is there."""
    recall = [np.mean(chosen[label == c] == c) for c in range(classes) if (label == c).any()]
    return float(np.mean(recall)) if len(recall) == classes else None


def brier(label: Int, probability: Float) -> float:
    """Mean squared distance to the one-hot label; halved for two classes (its binary form)."""
    target = np.eye(probability.shape[1])[label]
    total = np.mean(np.sum((probability - target) ** 2, axis=1))
    return float(total / 2 if probability.shape[1] == 2 else total)


def scores(
    probability: npt.NDArray[np.generic],
    label: npt.NDArray[np.generic],
    names: Sequence[str] = (),
) -> dict[str, float]:
    """Every score that is defined, by name.

    With more than two classes ``auroc`` and ``auprc`` are means over classes, one against the
    rest, of the classes for which they are defined. Of a multi-label task ``auroc``, ``auprc``
    and ``brier`` are means over labels, beside ``auroc/<label>`` and so on of each; a label is
    scored where it is known.

    Args:
        probability: (n, C), or of labels (n, L).
        label: class index, (n,); or 1, 0 and NaN where unknown, (n, L).
        names: of the labels.
    """
    if label.ndim == 2:
        return _label_scores(probability, label, names)
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.int64)
    if not len(y):
        return {}
    classes = p.shape[1]
    ranked = range(1, 2) if classes == 2 else range(classes)
    found = {
        "auroc": _mean_defined([auroc(_is(y, c), p[:, c]) for c in ranked]),
        "auprc": _mean_defined([auprc(_is(y, c), p[:, c]) for c in ranked]),
        "balanced_accuracy": balanced_accuracy(y, p.argmax(1), classes),
        "brier": brier(y, p),
        "n": float(len(y)),
    }
    return {k: float(v) for k, v in found.items() if v is not None and np.isfinite(v)}


def _label_scores(
    probability: npt.NDArray[np.generic], label: npt.NDArray[np.generic], names: Sequence[str]
) -> dict[str, float]:
    """Scores by label and their means; nothing for a label that is known of nobody."""
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    found: dict[str, float] = {}
    for i, name in enumerate(names):
        known = ~np.isnan(y[:, i])
        if known.any():
            yes = p[known, i]
            one = scores(np.stack([1.0 - yes, yes], axis=1), y[known, i].astype(np.int64))
            found |= {f"{k}/{name}": one[k] for k in BY_LABEL if k in one}
    if not found:
        return {}
    for kind in BY_LABEL:
        each = [v for k, v in found.items() if k.startswith(f"{kind}/")]
        found |= {kind: float(np.mean(each))} if each else {}
    return found | {"n": float((~np.isnan(y)).any(axis=1).sum())}


def scores_of(
    found: Mapping[str, npt.NDArray[np.generic]], task: Task, *, least: int = 1
) -> dict[str, float]:
    """Every score of what a client half predicted for a split, by the kind of task.

    Args:
        found: ``probability`` and ``label``, see ``scores``; of a segmentation its scores, see
            ``segmentation_scores``, which also has ``least``.
    """
    if task.segments:
        return segmentation_scores(found, least=least)
    return scores(found["probability"], found["label"], task.names)


def segmentation_scores(
    found: Mapping[str, npt.NDArray[np.generic]], *, least: int = 1
) -> dict[str, float]:
    """Means over patients of every score that is defined, the means of those over regions, and n.

    ``dice`` and ``hd95`` are means over the regions with all the sequences that the site holds: of
    its personal model (of the global one, where a method has no other); ``<score>/global`` is the
    same of the global one. HD95 is told with all the sequences only.

    Args:
        found: ``<score>/<model>/<region>/<subset>``: one value of each patient, NaN where it is not
            defined. The largest subset of the model that the site uses is what the site holds.
            ``there/<region>``, where given: 1 of a patient whose mask has the region, else 0.
        least: patients that must be behind a mean. Dice is told of all or of those who have one of
            the subset's sequences: who has none must be as many, or the two means tell of a few.
            Nothing is told of a region that some, but fewer, patients have: the others score 1.
    """
    n = max((len(values) for values in found.values()), default=0)
    if not n:
        return {}
    used = next((m for m in MODELS if any(k.startswith(f"dice/{m}/") for k in found)), MODELS[0])
    held = (_subset(name) for name in found if name.startswith(f"dice/{used}/"))
    full = max(held, key=lambda s: (s.count("+"), s), default="")
    told: dict[str, float] = {}
    carriers = {k: float(np.sum(v)) for k, v in found.items() if k.startswith(THERE)}
    for name, values in found.items():
        if name in carriers or 0 < carriers.get(THERE + name.split("/")[2], 0) < least:
            continue
        defined = np.asarray(values, dtype=np.float64)
        defined = defined[~np.isnan(defined)]
        overlaps, others = name.startswith("dice/"), n - len(defined)
        shown = (not 0 < others < least) if overlaps else _subset(name) == full
        if len(defined) >= least and shown:
            told[name] = float(defined.mean())
    for kind in OVERLAPS:
        for model, headline in ((used, kind), ("global", f"{kind}/global")):
            each = _of_regions(told, f"{kind}/{model}/", full)
            told |= {headline: float(np.mean(each))} if each else {}
    return told | {"n": float(n)}


def _subset(name: str) -> str:
    """``flair+t1ce`` of ``dice/personal/wt/flair+t1ce``."""
    return name.rpartition("/")[2]


def _of_regions(told: Mapping[str, float], prefix: str, subset: str) -> list[float]:
    """The scores of every region under a prefix, predicted from one subset of the sequences."""
    return [v for k, v in told.items() if k.startswith(prefix) and _subset(k) == subset]


def _is(label: Int, c: int) -> Int:
    return np.equal(label, c).astype(np.int64)


def _mean_defined(values: Sequence[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values``, resampled with replacement.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if not data.size:
        raise ValueError("Expected at least one value, got none.")
    picks = np.random.default_rng(seed).integers(0, data.size, (draws, data.size))
    means = data[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
