"""Which pictures a report shows: series over rounds, bytes by site, methods compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.evaluation import pictures
from polyclinic.evaluation.repeats import Compared
from polyclinic.evaluation.verdict import FEW_REPEATS

Record = Mapping[str, Any]


def drawn(
    records: Sequence[Record],
    updates: Mapping[str, Mapping[str, int]],
    found: Mapping[str, Compared],
) -> dict[str, str]:
    """Pictures by name, as data addresses; a name is missing where there is nothing to show.

    Args:
        updates: bytes of one update by site and parameter group.
        found: the comparison by test set.
    """
    made: dict[str, str] = {}
    names = list(updates)
    scores = by_round(records, "validation/auroc")
    bars = {t: _bars(c) for t, c in found.items()}
    limits = pictures.auroc_limits(
        [v for points in scores.values() for _, v in points]
        + [mean - spread for rows in bars.values() for *_, mean, spread in rows]
    )
    if scores:
        made["validation_auroc"] = pictures.lines(scores, names, "AUROC", limits)
    losses = by_round(records, "train/loss")
    if losses:
        made["train_loss"] = pictures.lines(losses, names, "training loss")
    sent = {site: _coarse(groups) for site, groups in updates.items() if groups}
    if sent:
        made["bytes"] = pictures.stacked(sent)
    made |= {f"comparison_{t}": pictures.grouped(rows, limits) for t, rows in bars.items()}
    norms = _prototype_series(records, "proto_norm/")
    if norms:
        made["prototypes"] = pictures.lines(norms, sorted(norms), "prototype norm")
    return made


def by_round(records: Sequence[Record], metric: str) -> dict[str, list[tuple[int, float]]]:
    """Rounds and values of a metric, by site; sites that never told it are left out."""
    series: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.get("kind") != "round":
            continue
        for site, metrics in sorted(record.get("metrics", {}).items()):
            if metric in metrics:
                series.setdefault(site, []).append((int(record["round"]), float(metrics[metric])))
    return series


def _bars(found: Compared) -> list[tuple[str, str, float, float]]:
    """Method, site, mean, standard deviation; 0 where too few repeats make one."""
    return [
        (m.method, s, m.means[s], m.spreads[s] if m.repeats >= FEW_REPEATS else 0.0)
        for m in found.rows
        for s in m.means
    ]


def _coarse(groups: Mapping[str, int]) -> dict[str, int]:
    """Bytes by encoder, and all heads and all stores together: they are small and many."""
    words = {"head": "heads", "store": "prototypes"}
    sizes: dict[str, int] = {}
    for group, count in groups.items():
        name = words.get(group.partition(".")[0], group)
        sizes[name] = sizes.get(name, 0) + count
    return sizes


def _prototype_series(records: Sequence[Record], prefix: str) -> dict[str, list[tuple[int, float]]]:
    """Mean over sites of the metrics under a prefix, by what follows it and round."""
    sums: dict[str, dict[int, list[float]]] = {}
    for record in records:
        if record.get("kind") != "round":
            continue
        for metrics in record.get("metrics", {}).values():
            for name, value in metrics.items():
                if name.startswith(prefix):
                    per_round = sums.setdefault(name.removeprefix(prefix), {})
                    per_round.setdefault(int(record["round"]), []).append(float(value))
    return {m: [(t, sum(v) / len(v)) for t, v in sorted(r.items())] for m, r in sums.items()}
