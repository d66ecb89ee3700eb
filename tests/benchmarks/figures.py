"""Arithmetic of the benchmarks, apart from what they run."""

import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

STEPS = ("clean", "data", "up", "submit", "watch", "report")
_SECONDS = re.compile(r"  (\d+\.\d) s")


def beyond_training(
    ends: Mapping[int, float], training: Mapping[int, Mapping[str, float]]
) -> list[float]:
    """Seconds of each round that were not training, in order of rounds.

    A round lasts from the end of the one before to its own end; the first round of ``ends`` only
    gives that moment, so that imports and warming up do not count. Its training is that of the
    slowest site, which the others wait for.

    Args:
        ends: time at which each round ended, by round.
        training: seconds each site trained, by round.
    """
    rounds = sorted(ends)
    return [ends[t] - ends[before] - max(training[t].values()) for before, t in pairwise(rounds)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, mean, smallest and largest, rounded to a millisecond."""
    return {
        "median": round(statistics.median(values), 3),
        "mean": round(statistics.fmean(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def per_round(
    ends: Mapping[int, float], passed: Sequence[tuple[float, str, int]], direction: str
) -> float:
    """Mean bytes of a round in a direction, from the end of the first round to that of the last.

    Args:
        ends: time at which each round ended, by round.
        passed: (time, direction, bytes).
    """
    first, last = min(ends.values()), max(ends.values())
    total = sum(n for t, d, n in passed if d == direction and first <= t < last)
    return total / (len(ends) - 1)


def step_seconds(text: str) -> dict[str, float]:
    """Seconds of each step from what ``poc/run.sh`` prints: a line with its name, later its time.

    A step that ran twice (``clean``) counts both times.
    """
    steps: dict[str, float] = {}
    name = ""
    for line in text.splitlines():
        if line.partition(" ")[0] in STEPS:
            name = line.split()[0]
        elif name and (found := _SECONDS.fullmatch(line)):
            steps[name] = round(steps.get(name, 0.0) + float(found[1]), 1)
    return steps
