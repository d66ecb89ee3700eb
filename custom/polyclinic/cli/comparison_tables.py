"""What ``polyclinic compare`` prints: methods over sites, by site, by what a model is given."""

from collections.abc import Collection, Mapping
from typing import Any

from polyclinic.cli import output
from polyclinic.comparison.missing import Missing
from polyclinic.evaluation.headline import DICE, WORDS, headline_of
from polyclinic.evaluation.metrics import MODELS
from polyclinic.evaluation.summary import subset_means

NONE = float("nan")
# Characters of a column of figures with its border, and of the borders around two of names.
WIDTH, NAMES = 9, 8
# Repeats that a screen has room for beside the methods.
FEW = 5
TESTS = (
    ("pooled", "all sites' test patients, the site's modalities"),
    ("own", "each site's own test patients"),
)


def print_summary(
    summary: Mapping[str, Any],
    missing: Missing | None = None,
    aside: Collection[str] = (),
    told: Mapping[str, Any] | None = None,
) -> None:
    """The headline score by method: over sites with interval, per site, with a modality missing;
    of a segmentation also by the sequences that it is predicted from. Then the runs that failed."""
    for test, title in TESTS:
        by_metric = summary.get(test, {})
        metric = headline_of(by_metric)
        found = by_metric.get(metric, {})
        if not found:
            continue
        columns, rows = _over_sites(by_metric, metric)
        without = f"; means without {', '.join(sorted(aside))}" if aside else ""
        output.table(f"{WORDS[metric]} on {title}{without}", columns, rows)
        _print_by_repeat(found)
        _print_by_site(found, aside, worst=metric == DICE)
        _print_by_subset(by_metric, list(found))
        if missing is not None:
            print_missing(summary, test, missing)
    _print_notes(summary, told or {})


def _print_notes(summary: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """What a reader must know of the tables: their words, the repeats in them, runs that failed."""
    if any(headline_of(by_metric) == DICE for by_metric in summary.values()):
        output.screen.print(
            "HD95 in voxels, lower is better; global: the model that all sites share", markup=False
        )
    failed = told.get("failed", ())
    if failed:
        rows = [[run["method"], run["repeat"], run["reason"]] for run in failed]
        output.table("runs that failed", ["method", "repeat", "why"], rows)
    asked = told.get("settings", {}).get("repeats", 0)
    entries = [e for by in summary.values() for e in by.get(headline_of(by), {}).values()]
    counted = max((entry["n"] for entry in entries), default=0)
    if counted < asked:
        output.screen.print(
            f"means are over the {counted} of {asked} repeats in which every method ended",
            markup=False,
        )


def _over_sites(by_metric: Mapping[str, Any], metric: str) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the means over sites; of a segmentation HD95, and the global model."""
    entries = by_metric[metric]
    rows = [_row(name, entry) for name, entry in entries.items()]
    columns = ["method", WORDS[metric], "sd", "95 % interval"]
    if any(entry["gap_closed"] is not None for entry in entries.values()):
        closed = (entry["gap_closed"] for entry in entries.values())
        rows = [[*row, _share(gap)] for row, gap in zip(rows, closed, strict=True)]
        columns.append("gap closed")
    if metric == DICE:
        for name, head in (("hd95", "HD95"), ("dice/global", "global")):
            means = by_metric.get(name, {})
            columns.append(head)
            rows = [[*row, means.get(row[0], {}).get("mean", NONE)] for row in rows]
    return columns, rows


def print_missing(summary: Mapping[str, Any], test: str, missing: Missing) -> None:
    """The headline score by method and share of patients without the modality; mean over sites."""
    names = [missing.name(test, rate) for rate in missing.rates]
    metric = headline_of(summary.get(test, {}))
    found = [summary.get(name, {}).get(metric, {}) for name in names]
    rows: list[list[object]] = [
        [method, *(entry.get(method, {}).get("mean", NONE) for entry in found)]
        for method in found[0]
    ]
    columns = ["method", *(f"{rate:.0%}" for rate in missing.rates)]
    output.table(f"by share of patients without '{missing.modality}'", columns, rows)


def _print_by_repeat(found: Mapping[str, Any]) -> None:
    """The mean over sites of each repeat, where there are few: an interval hides which they are."""
    repeats = list(dict.fromkeys(r for entry in found.values() for r in entry["repeats"]))
    if not 2 <= len(repeats) <= FEW:
        return
    rows = [[name, *(e["repeats"].get(r, NONE) for r in repeats)] for name, e in found.items()]
    output.table("by repeat; mean over sites", ["method", *repeats], rows)


def _print_by_site(found: Mapping[str, Any], aside: Collection[str], *, worst: bool) -> None:
    """Mean by site, and of the site, not among those aside, for which a method is worst."""
    sites = sorted({s for entry in found.values() for s in entry["sites"]})
    rows = [[name, *_site_means(entry, sites)] for name, entry in found.items()]
    columns = ["method", *sites]
    if worst:
        columns.append("worst site")
        for row, entry in zip(rows, found.values(), strict=True):
            told = (site["mean"] for name, site in entry["sites"].items() if name not in aside)
            row.append(min(told))
    output.table("by site", columns, rows)


def _print_by_subset(by_metric: Mapping[str, Any], methods: list[str]) -> None:
    """Dice by subset of the sequences, as many side by side as the screen takes; nothing where
    there is only one."""
    found = subset_means(by_metric)
    if len(found) < 2:
        return
    known = {key for means in found.values() for key in means}
    rows = [(name, model) for name in methods for model in MODELS if (name, model) in known]
    room = output.screen.width - max(len(name) for name in methods) - len(MODELS[0]) - NAMES
    most, subsets = max(1, room // WIDTH), list(found)
    title = "by sequences; mean over regions, and over sites where all rows have a figure"
    for start in range(0, len(subsets), most):
        shown = subsets[start : start + most]
        cells = [[*row, *(found[s].get(row, NONE) for s in shown)] for row in rows]
        heads = [subset.replace("+", " + ") for subset in shown]
        output.table(title if not start else "", ["method", "model", *heads], cells)


def _row(name: str, entry: Mapping[str, Any]) -> list[Any]:
    low, high = entry["interval"]
    spread = NONE if entry["sd"] is None else entry["sd"]
    # One repeat has no spread.
    span = "-" if entry["sd"] is None else f"{low:.3f} to {high:.3f}"
    return [name, entry["mean"], spread, span]


def _share(gap: float | None) -> str:
    return "-" if gap is None else f"{gap:.0%}"


def _site_means(entry: Mapping[str, Any], sites: list[str]) -> list[float]:
    """Mean by site; NaN where a site's test patients are all of one class."""
    return [entry["sites"][s]["mean"] if s in entry["sites"] else NONE for s in sites]
