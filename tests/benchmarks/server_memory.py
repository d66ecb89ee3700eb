"""Peak memory of the server while it folds 4, 16 and 64 updates of a 25 M parameter model.

    python tests/benchmarks/server_memory.py --json OUT

Each count runs in a process of its own. Updates are made one after the other, as they arrive; what
is measured is what the server holds on to. Target: the peak of 64 is less than 1.2 times that of 4.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from polyclinic.algorithms.fold import KeyedMean
from polyclinic.exchange import Contract, State, TensorSpec, Update
from polyclinic.flare.aggregator import UpdateAggregator
from polyclinic.flare.census import Announcement
from polyclinic.flare.convert import Reply
from polyclinic.study import Study, parse_study

COUNTS = (4, 16, 64)
TENSORS, SIZE = 50, 500_000
TARGET = 1.2
STUDY = {
    "name": "bench",
    "task": {"label": "y", "classes": ["a", "b"]},
    "modalities": {"wsi": {"kind": "bag", "dim": 4}},
}


class MeanServer:
    """Patient-weighted mean over the product's own fold, for a model of any size."""

    def contract(self, study: Study) -> Contract:
        return Contract({f"enc.wsi.{i}": TensorSpec((SIZE,), "wsi") for i in range(TENSORS)})

    def initial(self, study: Study) -> State:
        specs = self.contract(study).specs
        return State({n: np.zeros(s.shape, np.float32) for n, s in specs.items()})

    def begin(self, study: Study, state: State, t: int) -> None:
        self.state, self.means, self.t = state, KeyedMean(), t

    def accept(self, site: str, update: Update) -> None:
        for name, value in update.tensors.items():
            self.means.add(site, name, value, update.scalars["n"])

    def finish(self) -> State:
        tensors = {
            name: (old + self.means.mean(name)).astype(np.float32)
            for name, old in self.state.tensors.items()
        }
        return State(tensors, self.t)


def peak_mb(updates: int) -> float:
    """Peak resident size in MB of a process that folds so many updates."""
    study, server = parse_study(STUDY), MeanServer()
    contract = server.contract(study)
    sites = [f"site-{i}" for i in range(updates)]
    said = Announcement(("wsi",), {"n": 100.0})
    aggregator = UpdateAggregator(server, study, contract)
    aggregator.open(server.initial(study), 1, dict.fromkeys(sites, said))
    rng = np.random.default_rng(0)
    for site in sites:
        tensors = {n: rng.standard_normal(SIZE, dtype=np.float32) for n in contract.specs}
        aggregator.accept(site, Reply("WEIGHT_DIFF", tensors, {"n": 100.0, "t": 1.0}))
        del tensors
    if aggregator.close(updates) is None:
        raise RuntimeError("the round did not close")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Exit code 0 when the target is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--updates", type=int, help="one count, in this process")
    args = parser.parse_args()
    if args.updates:
        print(peak_mb(args.updates))
        return 0
    peaks = {}
    for count in COUNTS:
        command = [sys.executable, __file__, "--updates", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[count] = float(done.stdout)
        print(f"{count:3d} updates of 25 M parameters: peak {peaks[count]:.0f} MB", flush=True)
    growth = peaks[COUNTS[-1]] / peaks[COUNTS[0]]
    met = growth < TARGET
    print(f"64 over 4: {growth:.3f} (target below {TARGET}): {'met' if met else 'MISSED'}")
    if args.json:
        content = {"peak_mb": peaks, "growth": growth, "target": TARGET, "met": met}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
