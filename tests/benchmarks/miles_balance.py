"""What MILES does to the gap between modalities, on validation patients only.

    python poc/cohorts.py tcga_brca --source DIR --plan paper3 --out OUT/paper3
    python tests/benchmarks/miles_balance.py --sites OUT/paper3 --repeats 10 --json OUT.json

Each line is one setting, over repeats and the sites with two modalities: AUROC of the joint head,
of the better and of the weaker modality's own head, and their gap. Plain joint training stands
first. The validation patients that decide are also those scored, which flatters every line with
scores on validation; "scores on train" decides without them. Test patients are not read.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.algorithms import fedavg
from polyclinic.algorithms.balance import modality_scores
from polyclinic.algorithms.site import open_keyed
from polyclinic.comparison.experiment import Plan, open_sites, site_folders
from polyclinic.comparison.federation import run_federation
from polyclinic.study import Study, load_study

ROUNDS = 20
VARIANTS: dict[str, dict[str, Any]] = {
    "joint": {},
    **{f"tau {t}": {"balance": "miles", "balance_tau": t} for t in (0.05, 0.1, 0.2, 0.4)},
    **{
        f"tau 0.05, mu {m}": {"balance": "miles", "balance_tau": 0.05, "balance_mu": m}
        for m in (0.1, 0.25, 0.75)
    },
    "tau 0.05, scores on train": {
        "balance": "miles",
        "balance_tau": 0.05,
        "balance_on": "train",
    },
    "no unimodal losses": {"unimodal_weight": 0.0},
}


def measured(
    sites: dict[str, Any], study: Study, settings: dict[str, Any]
) -> Iterator[list[float]]:
    """Joint, better and weaker AUROC of each site with two modalities."""
    client = fedavg.Client(unimodal_heads=True, **settings)
    server = fedavg.Server(unimodal_heads=True)
    result = run_federation(sites, client, server, study, ROUNDS)
    for site, patients in sites.items():
        if len(patients.modalities) != 2:
            continue
        names = server.contract(study).names_for(patients.modalities)
        state = result.state.restricted(sorted(names))
        task = open_keyed(
            client, patients, state, result.personal[site], own_head=client.head == "personal"
        )
        task.model.eval()
        found = modality_scores(task.model, patients, "validation")
        if found:
            yield [found[0], max(found[1].values()), min(found[1].values())]


def main() -> None:
    """Run, print one line per setting, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=Path, nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folders = site_folders(given.sites)
    study = load_study(folders[0].resolve().parent)
    held_out = study.split.model_copy(update={"validation": 0.3})
    study = study.model_copy(update={"split": held_out})
    cohorts = open_sites(Plan(folders, study, {}, given.repeats, ROUNDS, given.seed))
    figures: dict[str, list[list[float]]] = {}
    for name, settings in VARIANTS.items():
        for r in range(given.repeats):
            drawn = study.model_copy(update={"seed": given.seed + r})
            sites = {s: replace(c, study=drawn).resplit(given.seed + r) for s, c in cohorts.items()}
            figures.setdefault(name, []).extend(measured(sites, drawn, settings))
        joint, better, weaker = np.mean(figures[name], axis=0)
        print(
            f"{name:28} joint {joint:.3f}  better head {better:.3f}  weaker head {weaker:.3f}"
            f"  gap {better - weaker:.3f}",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps({"seed": given.seed, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
