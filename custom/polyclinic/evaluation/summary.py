"""What many repeats of many methods say: means, spread, intervals and the share of a gap closed."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from polyclinic.evaluation.headline import DICE
from polyclinic.evaluation.metrics import bootstrap_interval

Record = Mapping[str, Any]
FLOOR, CEILING, TUNED = "local", "centralised", "_plus"
# Of methods that segment.
SCANS = "scan_"


def shared_repeats(records: Sequence[Record]) -> list[Record]:
    """Records of the repeats in which every method ended, so that all are compared on the same.

    A run that failed has no records. Its repeat may have been a hard one: who came through would
    be compared by it with who did not.
    """
    ended: dict[str, set[int]] = defaultdict(set)
    for r in records:
        ended[str(r["method"])].add(int(r["repeat"]))
    shared = set.intersection(*ended.values()) if ended else set()
    return [r for r in records if int(r["repeat"]) in shared]


def summarise(records: Iterable[Record], aside: Collection[str] = ()) -> dict[str, Any]:
    """By test, metric and method: figures over repeats, for the mean over sites and for each site.

    The repeats are those in which every method ended, see ``shared_repeats``.
    The mean over sites is taken within a repeat, of the sites for which the metric is defined for
    every method that has it at all.
    ``gap_closed`` is (method - local) / (centralised - local) of those means, with ``local_plus``
    and ``centralised_plus`` for methods of that ending, and ``scan_local`` and ``scan_centralised``
    where methods segment; ``minus`` holds the paired difference to
    every other method, repeat by repeat.

    Args:
        records: ``method``, ``site``, ``repeat``, ``test``, ``metric``, ``value``.
        aside: sites that are told by themselves and are not in the means over sites; a metric that
            no other site has is left out.
    """
    tree: dict[tuple[str, str], dict[str, dict[str, dict[int, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for r in shared_repeats(list(records)):
        cell = tree[(r["test"], r["metric"])]
        cell[r["method"]][r["site"]][int(r["repeat"])] = float(r["value"])
    summary: dict[str, Any] = {}
    for (test, metric), methods in sorted(tree.items()):
        told = _by_method(methods, aside)
        if told:
            summary.setdefault(test, {})[metric] = told
    return summary


def _by_method(
    methods: Mapping[str, Mapping[str, Mapping[int, float]]], aside: Collection[str]
) -> dict[str, Any]:
    """One metric on one test."""
    counted = {
        name: {site: values for site, values in sites.items() if site not in aside}
        for name, sites in methods.items()
    }
    counted = {name: sites for name, sites in counted.items() if sites}
    shared = _shared_cells(counted)
    overall = {name: _over_sites(sites, shared) for name, sites in counted.items() if shared}
    means = {name: float(np.mean(list(v.values()))) for name, v in overall.items()}
    out: dict[str, Any] = {}
    for name in overall:
        entry: dict[str, Any] = figures(list(overall[name].values()))
        entry["repeats"] = {str(r): v for r, v in overall[name].items()}
        by_site = sorted(methods[name].items())
        entry["sites"] = {site: figures(list(v.values())) for site, v in by_site}
        entry["gap_closed"] = _gap_closed(means, name)
        entry["minus"] = {
            other: figures(_paired(overall[name], overall[other]))
            for other in overall
            if other != name and overall[name].keys() & overall[other].keys()
        }
        out[name] = entry
    return out


def figures(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over repeats (n - 1), 95 % bootstrap interval of the mean, and n."""
    data = np.asarray(values, dtype=np.float64)
    low, high = bootstrap_interval(data.tolist())
    return {
        "mean": float(data.mean()),
        "sd": float(data.std(ddof=1)) if len(data) > 1 else None,
        "interval": [low, high],
        "n": len(data),
    }


def subset_means(
    by_metric: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[tuple[str, str], float]]:
    """Dice by subset of a scan's sequences, and by method and model; the smallest subsets first.

    Each is the mean over regions of the mean over those sites that hold the subset.

    Args:
        by_metric: of one test, as ``summarise`` gives it.
    """
    regions: dict[str, dict[tuple[str, str], list[float]]] = {}
    for metric, methods in by_metric.items():
        kind, *named = metric.split("/")
        if kind == DICE and len(named) == 3:
            model, _, subset = named
            cells = regions.setdefault(subset, {})
            for method, entry in methods.items():
                cells.setdefault((method, model), []).append(float(entry["mean"]))
    by_size = sorted(regions, key=lambda subset: (subset.count("+"), subset))
    return {
        subset: {key: float(np.mean(v)) for key, v in regions[subset].items()} for subset in by_size
    }


def _shared_cells(
    methods: Mapping[str, Mapping[str, Mapping[int, float]]],
) -> frozenset[tuple[str, int]]:
    """Sites and repeats for which every method has the metric: a distance is not defined where
    nothing was predicted, and a set of sequences is scored only by who can read it."""
    cells = [{(site, r) for site, v in sites.items() for r in v} for sites in methods.values()]
    return frozenset(set.intersection(*cells)) if cells else frozenset()


def _over_sites(
    sites: Mapping[str, Mapping[int, float]], shared: Collection[tuple[str, int]]
) -> dict[int, float]:
    """Mean over sites of each repeat."""
    by_repeat: dict[int, list[float]] = defaultdict(list)
    for site, values in sites.items():
        for repeat, value in values.items():
            if (site, repeat) in shared:
                by_repeat[repeat].append(value)
    return {repeat: float(np.mean(v)) for repeat, v in sorted(by_repeat.items())}


def _paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    return [ours[r] - theirs[r] for r in sorted(ours.keys() & theirs.keys())]


def _gap_closed(means: Mapping[str, float], name: str) -> float | None:
    """Share of the way from the floor to the ceiling; None without both, or without a gap.

    A tuned method is measured between tuned ends when they are there: a better network alone must
    not look like federation.
    """
    ends = FLOOR, CEILING
    if name.endswith(TUNED) and {FLOOR + TUNED, CEILING + TUNED} <= set(means):
        ends = FLOOR + TUNED, CEILING + TUNED
    elif FLOOR not in means and CEILING not in means:
        ends = SCANS + FLOOR, SCANS + CEILING
    floor, ceiling = means.get(ends[0]), means.get(ends[1])
    if floor is None or ceiling is None or abs(ceiling - floor) < 1e-12:
        return None
    return (means[name] - floor) / (ceiling - floor)
