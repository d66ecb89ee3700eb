"""FedMEPD in 3-D at its published size, a few rounds on invented volumes: time and memory.

    python tests/benchmarks/fedmepd_published.py --json OUT
    python tests/benchmarks/fedmepd_published.py --device cuda --patients 8 --rounds 3 --json OUT

The study and the client half are those of ``jobs/fedmepd_brats2018``: crops of 80^3, four
sequences, the network with the published numbers of weights. A site with FLAIR, one with two
sequences and the anchor site train in one process as they would under FLARE; told are the seconds
of a training step at each (an epoch's time over its batches, so it includes what surrounds a step),
and the peak of memory: of a GPU what torch allocated, of a CPU the process's own. The first round
warms up and is left out of the times. Nothing is said about how well it segments.
"""

import argparse
import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rig import REPO, Record, write_json

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.base import Trained
from polyclinic.comparison.federation import run_federation
from polyclinic.data.batch import Patients
from polyclinic.device import on_device, require_device
from polyclinic.exchange import State, Tensors, Update
from polyclinic.jobs import load_job
from polyclinic.study import Study

sys.path.insert(0, str(REPO / "tests"))

from scan_site import ScanSite

JOB = REPO / "jobs" / "fedmepd_brats2018"
ANCHOR = "anchor"
HELD = {"one": ("flair",), "two": ("flair", "t1ce"), ANCHOR: ("flair", "t1", "t1ce", "t2")}


@dataclass
class Timed:
    """A client that notes how long each step of training took, by site and round."""

    client: fedmepd.Client
    seconds: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        return self._noted(self.client.train, patients, state, personal, t)

    def anchor(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        return self._noted(self.client.anchor, patients, state, personal, t)

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        return Trained(Update({}), personal)  # its scores are not what is timed

    def _noted(self, half: Any, patients: Patients, *rest: Any) -> Trained:
        start = time.perf_counter()
        trained: Trained = half(patients, *rest)
        batches = -(-patients.size("train") // self.client.batch_size) * self.client.epochs
        self.seconds[patients.site][rest[-1]] = (time.perf_counter() - start) / batches
        if not np.isfinite(trained.metrics["train/loss"]):
            raise RuntimeError("a loss that is not finite says nothing about time")
        return trained


def sites_of(study: Study, patients: int) -> dict[str, Patients]:
    """Every patient has another tumour; validation and test take half as many."""
    return {
        name: ScanSite(name, study, held, patients=patients, classes=(1, 2, 3), seed=i)
        for i, (name, held) in enumerate(HELD.items())
    }


def peak_mb(device: torch.device) -> float:
    """The most memory that was in use at once so far, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def trained(device: torch.device, rounds: int, patients: int, edge: int) -> Record:
    """Seconds of a step by site, after the first round, and the peak of memory."""
    job = load_job(JOB)
    if not isinstance(job.client, fedmepd.Client) or job.study.scans is None:
        raise TypeError("expected a job of FedMEPD")
    recipe = {**job.study.scans.recipe, "size": [edge] * 3}
    scans = job.study.scans.model_copy(update={"recipe": recipe})
    study = job.study.model_copy(update={"scans": scans})
    client = Timed(replace(job.client, validate_every=0))
    before, sites = peak_mb(device), sites_of(study, patients)
    with on_device(device):
        run_federation(sites, client, job.server, study, rounds, anchor=ANCHOR)
    steps = {
        site: float(np.median([s for t, s in by_round.items() if t > 1]))
        for site, by_round in client.seconds.items()
    }
    return {"edge": edge, "seconds": steps, "peak_mb": peak_mb(device), "before_mb": before}


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--rounds", type=int, default=2, help="2 or more")
    parser.add_argument("--patients", type=int, default=2, help="to train on, of each site")
    parser.add_argument("--edge", type=int, default=80, help="of a crop, in voxels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = require_device(args.device)
    figures = trained(device, max(2, args.rounds), args.patients, args.edge)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    figures |= {"device": name, "threads": torch.get_num_threads()}
    print(f"crops of {args.edge}^3 on {name}, {figures['threads']} threads")
    for site, seconds in figures["seconds"].items():
        what = "without calibration" if site == ANCHOR else "with calibration"
        print(f"step at a site with {len(HELD[site])} sequence(s), {what}: {seconds:.2f} s")
    print(f"peak {figures['peak_mb']:.0f} MB, {figures['before_mb']:.0f} MB before training")
    write_json(args.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
