"""One HTML page about a run: who took part, how good it got, what left each site, what went wrong.

The page is a single file with its pictures inside; it loads nothing, so it can be mailed and
archived. It is made from the run's ledger alone (and, when given, the records of ``polyclinic
compare``), so whoever holds the ledger can make it again. Only where a site gives it pictures of
its patients' scans does it show any, and says that it stays there.

Guarantees (tests/evaluation/test_report.py):
    * no cell starts with a character that a spreadsheet runs (= + - @ tab);
    * names are shown as text, never as markup;
    * the page names no host other than in text: no script, no link, no image from elsewhere.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from polyclinic.evaluation.gallery import drawn
from polyclinic.evaluation.headline import AUROC, DICE, WORDS
from polyclinic.evaluation.pictures import MOST_BARS
from polyclinic.evaluation.regions import anchor_steps, region_rows, subset_rows
from polyclinic.evaluation.repeats import compared
from polyclinic.evaluation.site_rows import final_scores, first, site_rows
from polyclinic.evaluation.verdict import FEW_REPEATS, TESTS, method_of, sentences
from polyclinic.evaluation.wording import algorithm, cell, moment, score, size

Record = Mapping[str, Any]
# What kept a site's answer out of a round, as the ledger names it, and in words.
ABSENCES = {
    "refused": "update refused by the guard",
    "failed": "answered with an error",
    "late": "no answer by the deadline",
    "absent": "never fetched the task",
    "lost": "process gone",
}


def render(
    records: Sequence[Record],
    *,
    study: Record | None = None,
    comparison: Record | None = None,
    job: str = "",
    methods: Mapping[str, str] | None = None,
    overlays: Mapping[str, str] | None = None,
) -> str:
    """The page, as HTML.

    Args:
        records: of the run's ledger, oldest first, with a ``start`` record.
        study: content of the run's ``study.json``, for the sentence on what was predicted.
        comparison: content of ``polyclinic compare --json``.
        job: the job's name, when known; a ledger holds its id only.
        methods: one line on each method that may have been compared.
        overlays: pictures of a site's own patients as data addresses, by name.
    """
    start, end = first(records, "start"), first(reversed(records), "end")
    rounds = [r for r in records if r.get("kind") == "round"]
    sites = site_rows(records)
    task = (study or {}).get("task", {})
    asked = set(task.get("labels") or {})
    by_test = compared(comparison or {})
    found = {t: by_test[t] for t in TESTS if t in by_test}
    known = {*(methods or {}), *(row.method for c in found.values() for row in c.rows)}
    ours = method_of(start, job, known)
    html: str = _page().render(
        job=job,
        algorithm=algorithm(str(start.get("algorithm", ""))),
        ours=ours,
        methods=methods or {},
        tests=TESTS,
        few=FEW_REPEATS,
        most_bars=MOST_BARS,
        words={t: sentences(c, t, ours, comparison or {}) for t, c in found.items()},
        start=start,
        end=end,
        study=study or {},
        rounds=rounds,
        counted=sum(r.get("status") == "folded" for r in rounds),
        seconds=sum(float(r.get("seconds", 0.0)) for r in rounds),
        sites=sites,
        groups=sorted({g for s in sites for g in s.groups}),
        labels=sorted(asked & {label for s in sites for label in s.labels}),
        trouble=trouble(records),
        quarantined=quarantined(records),
        comparison=found,
        aside=(comparison or {}).get("aside", ()),
        failed=(comparison or {}).get("failed", ()),
        pictures=drawn(records, {s.name: s.groups for s in sites}, found),
        ledger=ledger_hash(records),
        headline=WORDS[DICE if any(s.metric == DICE for s in sites) or task.get("mask") else AUROC],
        overlays=overlays or {},
        **_of_regions(records, task.get("mask") or {}),
    )
    return html


def _page() -> Any:
    """The template of the page."""
    import jinja2  # reports only; the rest of the package runs without

    folder = resources.files("polyclinic.evaluation")
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
    )
    environment.filters |= {"cell": cell, "size": size, "score": score, "moment": moment}
    return environment.get_template("report.html")


def _of_regions(records: Sequence[Record], mask: Record) -> dict[str, Any]:
    """What the page says of a segmentation; empty tables where there is nothing to say.

    Args:
        mask: of the study's task; without one no region is named.
    """
    final, regions = final_scores(records), list(mask.get("regions", ()))
    subsets = subset_rows(final, regions)
    return {
        "regions": regions,
        "region_rows": region_rows(final, regions),
        "subset_rows": subsets,
        "sequences": sorted({s for row in subsets for s in row.sequences}),
        "anchors": anchor_steps(records),
        "anchor_site": str(first(records, "census").get("anchor") or ""),
    }


def trouble(records: Sequence[Record]) -> list[tuple[str, str, str, str]]:
    """When, which site, what kept its answer out, and why as far as it was told."""
    rows = []
    for record in records:
        when = f"{record.get('kind', '')} {record.get('round', '')}".strip()
        for key, words in ABSENCES.items():
            for site, why in _sites_of(record.get(key, ())):
                rows.append((when, site, words, why))
    rows += [
        (
            f"round {step.round}",
            step.site or "anchor site",
            "anchor step did not count",
            step.reason,
        )
        for step in anchor_steps(records)
        if step.kept
    ]
    return rows


def quarantined(records: Sequence[Record]) -> list[tuple[str, str, int]]:
    """Site, reason code, count: what was set aside before training."""
    census = first(records, "census").get("sites", {})
    return [
        (site, reason, int(count))
        for site, said in sorted(census.items())
        for reason, count in sorted(said.get("quarantined", {}).items())
    ]


def ledger_hash(records: Sequence[Record]) -> str:
    """SHA-256 of the ledger's last line: it speaks for every line before it."""
    if not records:
        return hashlib.sha256(b"").hexdigest()
    line = json.dumps(records[-1], sort_keys=True, allow_nan=False)
    return hashlib.sha256(line.encode()).hexdigest()


def _sites_of(entry: Any) -> list[tuple[str, str]]:
    """Site and reason, whether the ledger holds a list of names or reasons by name."""
    if isinstance(entry, Mapping):
        return [(str(site), _words(why)) for site, why in sorted(entry.items())]
    return [(str(site), "") for site in entry]


def _words(why: Any) -> str:
    if isinstance(why, Mapping):
        return str(why.get("message") or why.get("reason") or why.get("code") or "")
    return str(why)
