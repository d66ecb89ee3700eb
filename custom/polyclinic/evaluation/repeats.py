"""What ``polyclinic compare`` found, folded over its repeats."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from polyclinic.evaluation.headline import AUROC, headline_of
from polyclinic.evaluation.summary import shared_repeats


@dataclass(frozen=True)
class Method:
    """The score of one method over repeats: means and standard deviations by site.

    Attributes:
        aside: sites that are not in the mean.
        overall: the mean over sites, where the comparison's summary tells it.
    """

    method: str
    means: Mapping[str, float]
    spreads: Mapping[str, float]
    repeats: int
    aside: frozenset[str] = frozenset()
    overall: float | None = None

    @property
    def mean(self) -> float:
        """Mean over sites."""
        if self.overall is not None:
            return self.overall
        counted = [mean for site, mean in self.means.items() if site not in self.aside]
        return sum(counted) / len(counted)


@dataclass(frozen=True)
class Compared:
    """Methods against each other on one kind of test set.

    Attributes:
        metric: by which they are compared.
    """

    sites: tuple[str, ...]
    rows: tuple[Method, ...]
    metric: str = AUROC


def compared(comparison: Mapping[str, Any]) -> dict[str, Compared]:
    """What ``polyclinic compare`` found, by test set: ``own`` and ``pooled``.

    As in its summary, repeats are those in which every method ended, and sites aside are in no
    mean; a method that has no other is left out.
    """
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    records = shared_repeats(comparison.get("records", ()))
    aside = frozenset(comparison.get("aside", ()))
    metric = headline_of(str(r.get("metric")) for r in records)
    for r in records:
        if r.get("metric") == metric and isinstance(r.get("value"), int | float):
            by_method = values.setdefault(str(r["test"]), {}).setdefault(str(r["method"]), {})
            by_method.setdefault(str(r["site"]), []).append(float(r["value"]))
    return {
        test: Compared(
            tuple(dict.fromkeys(site for by_site in methods.values() for site in by_site)),
            tuple(
                replace(
                    _method(name, by_site, aside), overall=_told(comparison, test, metric, name)
                )
                for name, by_site in methods.items()
            ),
            metric,
        )
        for test, found in values.items()
        if (methods := {name: by_site for name, by_site in found.items() if set(by_site) - aside})
    }


def _told(comparison: Mapping[str, Any], test: str, metric: str, method: str) -> float | None:
    """The mean that the command printed."""
    entry = comparison.get("summary", {}).get(test, {}).get(metric, {}).get(method, {})
    mean = entry.get("mean")
    return float(mean) if isinstance(mean, int | float) else None


def _method(name: str, by_site: Mapping[str, list[float]], aside: frozenset[str]) -> Method:
    means = {s: sum(v) / len(v) for s, v in by_site.items()}
    spreads = {
        s: math.sqrt(sum((x - means[s]) ** 2 for x in v) / max(len(v) - 1, 1))
        for s, v in by_site.items()
    }
    return Method(name, means, spreads, max(len(v) for v in by_site.values()), aside)
