"""What a run's sites told of a segmentation: by region, by the sequences given, by anchor step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyclinic.evaluation.metrics import MODELS

Record = Mapping[str, Any]
Told = Mapping[str, Mapping[str, float]]
"""The newest metrics, by site."""


@dataclass(frozen=True)
class RegionRow:
    """One model at one site, given all the sequences that the site holds.

    Attributes:
        dice, hd95: by region, and under "" over all of them.
    """

    site: str
    model: str
    dice: Mapping[str, float]
    hd95: Mapping[str, float]


@dataclass(frozen=True)
class SubsetRow:
    """Models that are given some of the sequences.

    Attributes:
        means: Dice by model, over regions and over the sites that told it.
        sites: Dice of the personal model by site, over regions; of the global one where a site has
            no other.
    """

    sequences: tuple[str, ...]
    means: Mapping[str, float]
    sites: Mapping[str, float]


@dataclass(frozen=True)
class AnchorStep:
    """What became of the anchor site's step after a round; round 0 is before the first.

    Attributes:
        kept: the broadcast kept what only the anchor site can renew.
        heard: sites that the round counted.
        taken: seconds of the round.
    """

    round: int
    site: str
    kept: bool
    reason: str
    seconds: float | None
    heard: int | None
    taken: float | None


def region_rows(final: Told, regions: Sequence[str]) -> list[RegionRow]:
    """A row for each site and each model that it scored."""
    rows = []
    for site, metrics in sorted(final.items()):
        scores = _newest_split(metrics)
        for model in MODELS:
            named = [k for k in scores if k.startswith(f"dice/{model}/")]
            if not named:
                continue
            full = max((k.rpartition("/")[2] for k in named), key=_by_size)
            dice, hd95 = (
                {
                    r: scores[name]
                    for r in regions
                    if (name := f"{kind}/{model}/{r}/{full}") in scores
                }
                for kind in ("dice", "hd95")
            )
            rows.append(RegionRow(site, model, _with_mean(dice), _with_mean(hd95)))
    return rows


def subset_rows(final: Told, regions: Sequence[str]) -> list[SubsetRow]:
    """A row for each set of sequences, the smallest first."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for site, metrics in sorted(final.items()):
        for name, value in _newest_split(metrics).items():
            kind, *parts = name.split("/")
            if kind == "dice" and len(parts) == 3 and parts[1] in regions:
                model, _, subset = parts
                found.setdefault(subset, {}).setdefault(model, {}).setdefault(site, []).append(
                    value
                )
    rows = []
    for subset in sorted(found, key=_by_size):
        by_site = {m: {s: _mean(v) for s, v in sites.items()} for m, sites in found[subset].items()}
        means = {m: _mean(by_site[m].values()) for m in MODELS if m in by_site}
        used = {**by_site.get("global", {}), **by_site.get("personal", {})}
        rows.append(SubsetRow(tuple(subset.split("+")), means, used))
    return rows


def anchor_steps(records: Sequence[Record]) -> list[AnchorStep]:
    """The anchor step of every round that had one, and that before the first round."""
    steps = []
    for record in records:
        told = anchor_of(record)
        if told:
            counted = record.get("kind") == "round"
            steps.append(
                AnchorStep(
                    int(record["round"]),
                    str(told.get("site") or ""),
                    told.get("status") != "absorbed",
                    str(told.get("reason") or ""),
                    _number(told.get("seconds")),
                    len(record.get("heard", ())) if counted else None,
                    _number(record.get("seconds")) if counted else None,
                )
            )
    return steps


def anchor_of(record: Record) -> Record:
    """What a line of the ledger says of an anchor step; {} where it says nothing."""
    if record.get("kind") == "anchor":
        return record
    told = record.get("anchor") if record.get("kind") == "round" else None
    return told if isinstance(told, Mapping) else {}


def _newest_split(metrics: Mapping[str, float]) -> dict[str, float]:
    """Scores on test patients where Dice was told of them, else on validation patients."""
    split = "test/" if any(k.startswith("test/dice") for k in metrics) else "validation/"
    return {k.removeprefix(split): v for k, v in metrics.items() if k.startswith(split)}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _by_size(subset: str) -> tuple[int, str]:
    return subset.count("+"), subset


def _with_mean(values: Mapping[str, float]) -> dict[str, float]:
    return {**values, "": _mean(values.values())} if values else {}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
