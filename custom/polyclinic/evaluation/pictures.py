"""The pictures of a report: matplotlib figures as ``data:`` addresses; no display is needed."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers help in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6d31", "#555555")
MARKERS = "osD^vPX*"
MOST_BARS = 5
# Of a legend: letters that a line has room for, and what the key of a name takes of it.
LETTERS, KEY = 92, 7
INK, FAINT = "#1f2933", "#d5dbe1"

Series = Mapping[str, Sequence[tuple[int, float]]]


def auroc_limits(values: Iterable[float]) -> tuple[float, float]:
    """From 0.5, a coin's toss, to 1, so that pictures can be compared; lower when a value is."""
    lowest = min((v for v in values if math.isfinite(v)), default=0.5)
    return (0.5 if lowest >= 0.5 else max(0.0, math.floor(lowest * 10) / 10)), 1.0


def lines(
    series: Series, order: Sequence[str], title: str, limits: tuple[float, float] | None = None
) -> str:
    """One line per name over rounds; a name looks the same whichever others have a line."""
    figure, axes = _canvas()
    for i, name in enumerate(order):
        if name not in series:
            continue
        rounds, values = zip(*series[name], strict=True)
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axes.plot(rounds, values, label=_name(name), linewidth=1.8, markersize=4, **style)
    axes.set_xlabel("round")
    axes.set_ylabel(title)
    if limits:
        axes.set_ylim(*_airy(limits))
    axes.xaxis.get_major_locator().set_params(integer=True)
    shown = {t for points in series.values() for t, _ in points}
    if len(shown) == 1:  # else its ticks would be fractions of a round
        axes.set_xlim(min(shown) - 1, min(shown) + 1)
    _legend(axes, [name for name in order if name in series])
    return _address(figure)


def stacked(parts: Mapping[str, Mapping[str, int]]) -> str:
    """One bar per site, stacked by parameter group, in kB or MB."""
    groups = sorted({g for sizes in parts.values() for g in sizes})
    large = max((sum(sizes.values()) for sizes in parts.values()), default=0) >= 10_000_000
    unit, divisor = ("MB", 1_000_000) if large else ("kB", 1000)
    figure, axes = _canvas(height=0.9 + 0.5 * len(parts))
    sites = list(parts)
    left = [0.0] * len(sites)
    for i, group in enumerate(groups):
        widths = [parts[s].get(group, 0) / divisor for s in sites]
        axes.barh(
            range(len(sites)),
            widths,
            left=left,
            color=COLOURS[i % len(COLOURS)],
            edgecolor="white",
            height=0.62,
            label=_name(group),
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(sites)), [_name(s) for s in sites])
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} of one update")
    axes.grid(axis="y", visible=False)
    _legend(axes, groups)
    return _address(figure)


def grouped(
    rows: Sequence[tuple[str, str, float, float]], title: str, limits: tuple[float, float]
) -> str:
    """Bars of method by site: (method, site, mean, spread); a whisker where the spread is not 0.

    Of more than ``MOST_BARS`` methods a row of points each, without whiskers.
    """
    methods = list(dict.fromkeys(r[0] for r in rows))
    sites = list(dict.fromkeys(r[1] for r in rows))
    if len(methods) > MOST_BARS:
        return _dots(rows, methods, sites, title, limits)
    figure, axes = _canvas()
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        found = {r[1]: (r[2], r[3]) for r in rows if r[0] == method}
        at = [j + (i - (len(methods) - 1) / 2) * width for j, s in enumerate(sites) if s in found]
        means = [found[s][0] for s in sites if s in found]
        spreads = [found[s][1] for s in sites if s in found]
        axes.bar(
            at,
            means,
            width * 0.92,
            yerr=spreads if any(spreads) else None,
            color=COLOURS[i % len(COLOURS)],
            ecolor=INK,
            capsize=2,
            label=_name(method),
        )
    axes.set_xticks(range(len(sites)), [_name(s) for s in sites])
    axes.set_ylim(*limits)
    axes.set_ylabel(title)
    axes.grid(axis="x", visible=False)
    _legend(axes, methods)
    return _address(figure)


def _dots(
    rows: Sequence[tuple[str, str, float, float]],
    methods: Sequence[str],
    sites: Sequence[str],
    title: str,
    limits: tuple[float, float],
) -> str:
    """A row for each method, the first above, with a point for each site."""
    figure, axes = _canvas(height=0.9 + 0.32 * len(methods))
    for i, site in enumerate(sites):
        found = [(r[2], methods.index(r[0])) for r in rows if r[1] == site]
        means, at = zip(*found, strict=True)
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axes.plot(means, at, linestyle="", markersize=6, label=_name(site), **look)
    axes.set_yticks(range(len(methods)), [_name(m) for m in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlim(*_airy(limits))
    axes.set_xlabel(title)
    _legend(axes, sites)
    return _address(figure)


def _canvas(height: float = 2.9) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # a second of import time, for reports only

    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    axes.xaxis.label.set(color=INK, size=9)
    axes.yaxis.label.set(color=INK, size=9)
    axes.grid(visible=True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _airy(limits: tuple[float, float]) -> tuple[float, float]:
    """The same limits with room for a marker at either end."""
    low, high = limits
    return low - 0.01, high + 0.01


def _legend(axes: Any, names: Sequence[str]) -> None:
    """Above the picture, in as many columns as there is room for."""
    longest = max((len(_name(name)) for name in names), default=0)
    room = LETTERS // (longest + KEY)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=max(1, min(len(names), room, 6)),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        borderaxespad=0.2,
        handlelength=1.4,
    )


def _name(text: str) -> str:
    """A name as matplotlib must show it: no mathematics, and never hidden for a leading '_'."""
    plain = "".join(c if c.isprintable() else " " for c in text[:40])
    return f" {plain}".replace("$", r"\$")


def _address(figure: Any) -> str:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=170)
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()
