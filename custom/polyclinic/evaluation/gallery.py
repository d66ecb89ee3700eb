"""Which pictures a report shows: series over rounds, bytes by site, methods compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.evaluation import pictures
from polyclinic.evaluation.headline import AUROC, WORDS, headline_of
from polyclinic.evaluation.regions import anchor_of
from polyclinic.evaluation.repeats import Compared
from polyclinic.evaluation.verdict import FEW_REPEATS

Record = Mapping[str, Any]
SHARE = (0.0, 1.0)


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
    metric = next((c.metric for c in found.values()), headline_of(_scores_told(records)))
    scores = by_round(records, f"validation/{metric}")
    bars = {t: _bars(c) for t, c in found.items()}
    values = [v for points in scores.values() for _, v in points]
    values += [mean - spread for rows in bars.values() for *_, mean, spread in rows]
    limits = pictures.auroc_limits(values) if metric == AUROC else SHARE
    if scores:
        made["validation"] = pictures.lines(scores, names, WORDS[metric], limits)
    losses = by_round(records, "train/loss")
    if losses:
        made["train_loss"] = pictures.lines(losses, names, "training loss")
    sent = {site: _coarse(groups) for site, groups in updates.items() if groups}
    if sent:
        made["bytes"] = pictures.stacked(sent)
    made |= {
        f"comparison_{t}": pictures.grouped(rows, WORDS[metric], limits) for t, rows in bars.items()
    }
    norms = _prototype_series(records, "proto_norm/")
    if norms:
        made["prototypes"] = pictures.lines(norms, sorted(norms), "prototype norm")
    kept = by_round(records, "filters/personal")
    if kept:
        made["filters"] = pictures.lines(kept, names, "share of filters", SHARE)
    return made


def _scores_told(records: Sequence[Record]) -> set[str]:
    """Names of the scores that any site told of any split."""
    told = (m for r in records for metrics in r.get("metrics", {}).values() for m in metrics)
    return {name.partition("/")[2] for name in told}


def by_round(records: Sequence[Record], metric: str) -> dict[str, list[tuple[int, float]]]:
    """Rounds and values of a metric, by site; sites that never told it are left out."""
    series: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.get("kind") not in ("round", "anchor"):
            continue
        told = {**record.get("metrics", {}), **anchor_of(record).get("metrics", {})}
        for site, metrics in sorted(told.items()):
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
    """Bytes by encoder, and all heads and all prototypes together: they are small and many."""
    words = {"head": "heads", "store": "prototypes", "dec": "decoder"}
    words |= {"store.anchor": "anchors", "store.filter": "filter marks"}
    sizes: dict[str, int] = {}
    for group, count in groups.items():
        name = words.get(group) or words.get(group.partition(".")[0], group)
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
