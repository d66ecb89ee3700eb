"""What a comparison says, in sentences: who is ahead, by how much, and whether that is much."""

from collections.abc import Iterable, Mapping
from typing import Any

from polyclinic.evaluation.headline import WORDS
from polyclinic.evaluation.repeats import Compared, Method
from polyclinic.evaluation.wording import score

# Below this many repeats a standard deviation says nothing, and no difference can be trusted.
FEW_REPEATS = 3
# Methods closer than this are level: the page shows three digits.
LEVEL = 0.0005
ALONE = ("local", "scan_local")
TESTS = {
    "pooled": "all sites' test patients",
    "own": "each site's own test patients",
}


def sentences(found: Compared, test: str, ours: str, comparison: Mapping[str, Any]) -> list[str]:
    """Plain words for one test set.

    Args:
        ours: the method that the run trained with, when it was compared too; else any text.
        comparison: content of ``polyclinic compare --json``, for the spread of a difference.
    """
    ranked = sorted(found.rows, key=lambda row: -row.mean)
    if not ranked:
        return []
    best = ranked[0]
    where, score_of = TESTS.get(test, test), WORDS[found.metric]
    told = [f"On {where}, {best.method} is ahead with a mean {score_of} of {_n(best)}"]
    if len(ranked) > 1:
        told[0] += "; then " + ", ".join(f"{row.method} {_n(row)}" for row in ranked[1:])
    told[0] += "."
    mine = next((row for row in ranked if row.method == ours), None)
    if mine is not None and len(ranked) > 1:
        others = [row for row in ranked if row is not mine]
        told.append(_standing(mine, others))
        by_method = comparison.get("summary", {}).get(test, {}).get(found.metric, {})
        told.append(_trust(mine, others[0], by_method))
    return told


def method_of(start: Mapping[str, Any], job: str, known: Iterable[str]) -> str:
    """The method that a run trained with, as far as its first line and its job's name tell.

    A preset is an algorithm with settings and the ledger names the algorithm alone, so that a job
    called ``fedmm_plus_tcga_brca`` is taken for the preset and not for ``fedmm``.
    """
    module = str(start.get("algorithm", "")).rpartition(".")[0].rpartition(".")[2]
    if job in known:
        return job
    named = [m for m in known if module and m.startswith(module) and job.startswith(m)]
    return max(named, key=len, default=module)


def _standing(mine: Method, others: list[Method]) -> str:
    """``fedmm, the algorithm of this run, is 0.028 behind multi_fedavg and ...``."""
    rivals = [others[0], *(row for row in others[1:] if row.method in ALONE)]
    parts = [_against(mine, row) for row in rivals]
    return f"{mine.method}, the algorithm of this run, is {' and '.join(parts)}."


def _against(mine: Method, other: Method) -> str:
    name = "every site training alone" if other.method in ALONE else other.method
    difference = mine.mean - other.mean
    if abs(difference) < LEVEL:
        return f"level with {name}"
    return f"{score(abs(difference))} {'ahead of' if difference > 0 else 'behind'} {name}"


def _trust(mine: Method, other: Method, by_method: Mapping[str, Any]) -> str:
    """Whether the difference to the best other method is more than chance, by the figures of one
    score."""
    repeats = min(mine.repeats, other.repeats)
    if repeats < FEW_REPEATS:
        return f"With {repeats} repeat{'s' * (repeats != 1)} such differences may be chance."
    paired = by_method.get(mine.method, {}).get("minus", {}).get(other.method, {})
    if "interval" not in paired:
        return ""
    low, high = paired["interval"]
    span = f"the 95 % interval of the difference to {other.method} ({score(low)} to {score(high)})"
    holds = "leaves out zero: it held over the repeats" if low > 0 or high < 0 else "includes zero"
    return f"Over {repeats} repeats {span} {holds}."


def _n(row: Method) -> str:
    return score(row.mean)
