"""What each part of the recommended preset brings, on validation patients only.

    python poc/cohorts.py tcga_brca --source DIR --plan paper3 --out OUT/paper3
    python tests/benchmarks/preset_ablation.py --sites OUT/paper3 --repeats 20 --json OUT.json

Each line is one change of the preset, all else equal: AUROC on all sites' validation patients
restricted to the site's modalities, and the paired difference to the preset with its 95 % bootstrap
interval over repeats. A quarter of the training patients are held out for it; test patients are not
read. Repeats share patients, so the intervals speak of splits and starts, not of new hospitals.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyclinic.algorithms.presets import METHODS, Method
from polyclinic.comparison.experiment import Plan, site_folders
from polyclinic.comparison.runs import run_plan
from polyclinic.evaluation.summary import summarise
from polyclinic.study import load_study

PRESET = "fedmm_plus"
VALIDATION = 0.25


def changed(
    client: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    **method: Any,
) -> Method:
    """The preset with other settings."""
    base = METHODS[PRESET]
    return replace(
        base,
        client_args={**base.client_args, **(client or {})},
        server_args={**base.server_args, **(server or {})},
        **method,
    )


def vector(**settings: Any) -> dict[str, Any]:
    """The preset's encoder with other settings."""
    return {"encoders": {"vector": {**METHODS[PRESET].encoders["vector"], **settings}}}


PAPER_NET: dict[str, Any] = {"encoders": {"vector": {"clip": 3.0}}, "embedding": 256}
NO_UNIMODAL = {"unimodal_heads": False, "fusion": "fused"}

VARIANTS: dict[str, Method] = {
    PRESET: METHODS[PRESET],
    "no unimodal heads": changed(NO_UNIMODAL, {"unimodal_heads": False}),
    "unimodal heads, fused head predicts": changed({"fusion": "fused"}),
    "mean of fused and unimodal": changed({"fusion": "both"}),
    "prototypes": METHODS["fedmm_plus_prototypes"],
    "no class balance": changed({"class_balance": False}),
    "weights by patients": changed(None, {"weight": "n_k"}),
    "no clipping of inputs": changed(**vector(clip=0.0)),
    "the paper's network": changed(**PAPER_NET),
    "no LayerNorm": changed(**vector(norm="none")),
    "40 rounds": changed(most_rounds=40),
    "20 rounds of 1 epoch": changed({"epochs": 1}, most_rounds=20),
    "FedProx 0.01": changed({"mu": 0.01}),
    "modality dropout 0.3": changed({"modality_dropout": 0.3}),
    "fresh final head, fused": changed({"final_head": "fit", "fusion": "fused"}),
}


def main() -> None:
    """Run, print one line per variant, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=Path, nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sites = site_folders(given.sites)
    study = load_study(sites[0].resolve().parent)
    held_out = study.split.model_copy(update={"validation": VALIDATION})
    study = study.model_copy(update={"split": held_out})
    plan = Plan(sites, study, VARIANTS, given.repeats, 40, given.seed, scored="validation")
    records, _ = run_plan(plan, lambda _: None)
    found = summarise(records)["pooled"]["auroc"]
    for name, entry in found.items():
        line = f"{name:36} {entry['mean']:.4f}"
        if name != PRESET:
            minus = entry["minus"][PRESET]
            low, high = minus["interval"]
            line += f"  {minus['mean']:+.4f} [{low:+.4f}, {high:+.4f}]"
        print(line)
    if given.json:
        given.json.write_text(json.dumps({"summary": found, "seed": given.seed}, indent=1) + "\n")


if __name__ == "__main__":
    main()
