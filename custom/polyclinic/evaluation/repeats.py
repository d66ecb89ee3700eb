"""What ``polyclinic compare`` found, folded over its repeats."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.evaluation.headline import AUROC, headline_of


@dataclass(frozen=True)
class Method:
    """The score of one method over repeats: means and standard deviations by site."""

    method: str
    means: Mapping[str, float]
    spreads: Mapping[str, float]
    repeats: int

    @property
    def mean(self) -> float:
        """Mean over sites."""
        return sum(self.means.values()) / len(self.means)


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
    """What ``polyclinic compare`` found, by test set: ``own`` and ``pooled``."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    records = comparison.get("records", ())
    metric = headline_of(str(r.get("metric")) for r in records)
    for r in records:
        if r.get("metric") == metric and isinstance(r.get("value"), int | float):
            by_method = values.setdefault(str(r["test"]), {}).setdefault(str(r["method"]), {})
            by_method.setdefault(str(r["site"]), []).append(float(r["value"]))
    return {
        test: Compared(
            tuple(dict.fromkeys(site for by_site in methods.values() for site in by_site)),
            tuple(_method(name, by_site) for name, by_site in methods.items()),
            metric,
        )
        for test, methods in values.items()
    }


def _method(name: str, by_site: Mapping[str, list[float]]) -> Method:
    means = {s: sum(v) / len(v) for s, v in by_site.items()}
    spreads = {
        s: math.sqrt(sum((x - means[s]) ** 2 for x in v) / max(len(v) - 1, 1))
        for s, v in by_site.items()
    }
    return Method(name, means, spreads, max(len(v) for v in by_site.values()))
