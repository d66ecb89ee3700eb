"""What FedMM's prototypes do to embeddings, with a LayerNorm on them and without.

    python poc/cohorts.py tcga_brca --source DIR --plan paper3 --out OUT/paper3
    python tests/benchmarks/prototype_trap.py --sites OUT/paper3 --rounds 40

One JSON line a run: mean prototype norm over sites and the mean own validation AUROC by round, and
the round at which the watch stopped the run. ``unwatched`` runs go on to the end. A quarter of
the training patients is held out for the scores; test patients are not read.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from polyclinic.algorithms import fedmm
from polyclinic.comparison import run_federation
from polyclinic.data.cohort import open_cohort
from polyclinic.errors import TrainingDiverged
from polyclinic.exchange import State
from polyclinic.settings import load_settings
from polyclinic.study import Study, load_study

VALIDATION = 0.25
NEVER = 1e30
SHOWN = (1, 2, 3, 5, 10, 20, 30, 40, 60, 100)
# name: the embedding's norm, what differs from the client's defaults
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "layer": ("layer", {}),
    "none": ("none", {}),
    "none, unwatched": ("none", {"runaway": NEVER, "collapse": 0.0}),
    "layer, strong pull": ("layer", {"t0": 0, "alpha": 0.5}),
    "none, no prototypes": ("none", {"prototypes": False}),
}

Heard = Mapping[str, Mapping[str, float]]


def studied(study: Study, norm: str, seed: int) -> Study:
    """The study with this norm on every embedding, and validation patients."""
    modalities = {
        name: m.model_copy(update={"encoder": {**m.encoder, "norm": norm}})
        for name, m in study.modalities.items()
    }
    split = study.split.model_copy(update={"validation": VALIDATION})
    return study.model_copy(update={"modalities": modalities, "split": split, "seed": seed})


def told(heard: Sequence[Heard]) -> dict[str, dict[str, float]]:
    """By metric and round: the mean over the sites that told it."""
    out: dict[str, dict[str, float]] = {}
    for t, sites in enumerate(heard, start=1):
        for name in sorted({n for metrics in sites.values() for n in metrics}):
            values = [metrics[name] for metrics in sites.values() if name in metrics]
            wanted = name.startswith(("proto_norm/", "proto_separation/")) or (
                name == "validation/auroc"
            )
            if wanted and (t in SHOWN or t == len(heard)):
                out.setdefault(name, {})[str(t)] = float(f"{fmean(values):.4g}")
    return out


def run(sites: Path, name: str, rounds: int, seed: int) -> dict[str, Any]:
    """The figures of one run."""
    norm, settings = RUNS[name]
    study = studied(load_study(sites), norm, seed)
    folders = sorted(p.parent for p in sites.glob("*/polyclinic.yaml"))
    cohorts = [open_cohort(load_settings(f / "polyclinic.yaml"), study) for f in folders]
    heard: list[Heard] = []

    def note(t: int, state: State, metrics: Heard) -> None:
        heard.append({site: dict(values) for site, values in metrics.items()})

    stopped, why = 0, ""
    try:
        client = replace(fedmm.Client(), **settings)
        run_federation(
            {c.site: c for c in cohorts}, client, fedmm.Server(), study, rounds, on_round=note
        )
    except TrainingDiverged as error:
        stopped, why = len(heard) + 1, str(error)
    return {
        "run": name,
        "seed": seed,
        "rounds": len(heard),
        "stopped_in_round": stopped,
        "why": why,
        **told(heard),
    }


def main() -> None:
    """Read the arguments, print one line a run."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--sites", type=Path, required=True, help="folder of site folders")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="*", choices=sorted(RUNS), default=list(RUNS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.runs:
        print(json.dumps(run(asked.sites, name, asked.rounds, asked.seed)), flush=True)


if __name__ == "__main__":
    main()
