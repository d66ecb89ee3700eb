"""What a ledger says of each site: what it holds, how good it got, what it sent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polyclinic.evaluation.headline import AUROC, DICE
from polyclinic.evaluation.regions import anchor_of

Record = Mapping[str, Any]


@dataclass(frozen=True)
class SiteRow:
    """One site over the whole run.

    Attributes:
        auroc: on the site's own test patients at the end, or its last on validation.
        dice: of a segmentation the same.
        labels: the same of each label of a multi-label task that the site knows.
        sent: bytes of all updates that counted.
        groups: bytes of one update by parameter group.
    """

    name: str
    modalities: tuple[str, ...]
    patients: float | None
    auroc: float | None
    rounds: int
    sent: int
    received: int
    groups: Mapping[str, int]
    quarantined: int
    labels: Mapping[str, float] = field(default_factory=dict)
    dice: float | None = None

    @property
    def metric(self) -> str:
        """The score that stands for the site."""
        return AUROC if self.dice is None else DICE

    @property
    def score(self) -> float | None:
        """Its value."""
        return self.auroc if self.dice is None else self.dice


def site_rows(records: Sequence[Record]) -> list[SiteRow]:
    """One row per site that announced itself, by name."""
    census = first(records, "census").get("sites", {})
    rounds = [r for r in records if r.get("kind") == "round"]
    messages = [*rounds, *filter(None, map(anchor_of, records))]
    rows = []
    for name, said in sorted(census.items()):
        final = final_scores(records).get(name, {})
        counts = said.get("counts", {})
        rows.append(
            SiteRow(
                name,
                tuple(said.get("modalities", ())),
                counts.get("n"),
                final.get("test/auroc", final.get("validation/auroc")),
                sum(name in r.get("heard", ()) for r in rounds),
                sum(sum(sizes.values()) for sizes in _sizes(messages, "bytes_in", name)),
                sum(sum(sizes.values()) for sizes in _sizes(messages, "bytes_out", name)),
                _by_group(next(reversed(_sizes(messages, "bytes_in", name)), {})),
                sum(int(v) for v in said.get("quarantined", {}).values()),
                by_label(final),
                final.get("test/dice", final.get("validation/dice")),
            )
        )
    return rows


def by_label(final: Mapping[str, float]) -> dict[str, float]:
    """AUROC of each label among a site's newest metrics, on test patients where it was told."""
    found: dict[str, float] = {}
    for split in ("validation", "test"):
        head = f"{split}/auroc/"
        found |= {k.removeprefix(head): v for k, v in sorted(final.items()) if k.startswith(head)}
    return found


def _sizes(messages: Sequence[Record], key: str, site: str) -> list[Mapping[str, int]]:
    """Bytes by group of every round and anchor step in which the site's message counted."""
    return [r[key][site] for r in messages if site in r.get(key, {})]


def _by_group(sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes with ``store.count.wsi`` and ``store.proto.wsi`` in one ``store.wsi``, and those of
    all levels of anchors and of all marks of filters in one each."""
    groups: dict[str, int] = {}
    for name, count in sizes.items():
        head, _, rest = name.partition(".")
        kind, _, of = rest.partition(".")
        group = name
        if head == "store" and of:
            group = f"store.{of}" if kind in ("proto", "count") else f"store.{kind}"
        groups[group] = groups.get(group, 0) + count
    return groups


def final_scores(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """The newest value of every metric, by site."""
    scores: dict[str, dict[str, float]] = {}
    for record in records:
        for site, metrics in record.get("metrics", {}).items():
            scores.setdefault(site, {}).update(metrics)
    return scores


def first(records: Iterable[Record], kind: str) -> Record:
    """The first record of a kind; {} without any."""
    return next((r for r in records if r.get("kind") == kind), {})
