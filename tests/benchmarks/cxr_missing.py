r"""Films joined with metadata against its rivals as more and more patients lack metadata.

    python poc/cohorts.py cxr --source DIR --plan nih_hannover --out SITES
    python tests/benchmarks/cxr_missing.py --sites SITES --repeats 5 --json OUT.json

    python poc/cohorts.py cxr --source DIR --plan icu --out ICU
    python tests/benchmarks/cxr_missing.py --sites ICU --missing labs:0,0.5,1 --rounds 10 \
      --methods cxr_image_only,cxr_labs_only,cxr_late,cxr_gated

Every method is trained on the patients as they are, once a repeat (another split, other starts);
then the same test patients are scored with metadata hidden from 0, 25, 50, 75 and 100 % of them.
More rounds than a method itself says are not run.
One line for each label, site and method: mean AUROC over repeats at each rate, with its 95 %
bootstrap interval over repeats. Repeats share patients, so the intervals speak of splits and
starts, not of new hospitals.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyclinic.comparison.experiment import Plan, chosen_methods, site_folders
from polyclinic.comparison.missing import Missing, parse_missing
from polyclinic.comparison.runs import run_plan
from polyclinic.evaluation.summary import summarise
from polyclinic.study import load_study

METHODS = "cxr_image_only,cxr_early,cxr_late,cxr_gated,cxr_isolated,cxr_local,cxr_centralised"
RATES = "metadata:0,0.25,0.5,0.75,1"


def figures(summary: dict[str, Any], missing: Missing) -> Iterator[dict[str, Any]]:
    """AUROC by test (own or pooled), label, site and method, at each rate in order."""
    for test in ("own", "pooled"):
        grid = [summary.get(missing.name(test, rate), {}) for rate in missing.rates]
        for metric in sorted(m for m in grid[0] if m.split("/")[0] == "auroc"):
            for method, entry in grid[0][metric].items():
                for site in entry["sites"]:
                    at = [found[metric][method]["sites"][site] for found in grid]
                    yield {
                        "test": test,
                        "label": metric.partition("/")[2] or "mean",
                        "site": site,
                        "method": method,
                        "auroc": [f["mean"] for f in at],
                        "interval": [f["interval"] for f in at],
                    }


def line(figure: dict[str, Any], missing: Missing) -> str:
    """One figure as a person reads it."""
    parts = [
        f"{rate:.0%} {mean:.3f} [{low:.3f}, {high:.3f}]"
        for rate, mean, (low, high) in zip(
            missing.rates, figure["auroc"], figure["interval"], strict=True
        )
    ]
    head = f"{figure['test']:7}{figure['label']:12}{figure['site']:12}{figure['method']:16}"
    return head + "  ".join(parts)


def main() -> None:
    """Run, print one line per figure, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=Path, nargs="+", required=True)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--missing", default=RATES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sites = site_folders(given.sites)
    study = load_study(sites[0].resolve().parent)
    missing = parse_missing(given.missing, study)
    methods = chosen_methods(given.methods.split(","), study)
    plan = Plan(
        sites,
        study,
        methods,
        given.repeats,
        given.rounds,
        given.seed,
        given.workers,
        missing=missing,
    )
    records, seconds = run_plan(plan, lambda _: None)
    found = list(figures(summarise(records), missing))
    for figure in found:
        print(line(figure, missing))
    if given.json:
        settings = {k: str(v) for k, v in vars(given).items() if k not in ("sites", "json")}
        result = {
            "missing": {"modality": missing.modality, "rates": missing.rates},
            "settings": settings,
            "study": study.fingerprint(),
            "figures": found,
            "seconds": seconds,
        }
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
