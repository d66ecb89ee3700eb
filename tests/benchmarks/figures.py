"""Arithmetic of the benchmarks, apart from what they run."""

import statistics
from collections.abc import Mapping, Sequence


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
    return [
        ends[t] - ends[before] - max(training[t].values())
        for before, t in zip(rounds, rounds[1:], strict=False)
    ]


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
