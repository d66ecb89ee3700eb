"""What FedMEPD costs beside its network: personal filters, bytes, calibration.

    python tests/benchmarks/fedmepd_speed.py --json OUT

On one core, in processor time, for the machine is shared:

- filters: discrepancy, masks, weights and overlay of a round for the published decoder (4,092
  filters), median of 20. Target: below 50 ms.
- bytes: tensors of a round and site, up and down, by how many of four sequences it holds, over the
  least there is to say: its encoders and the decoder both ways, anchors down, masks and weights up.
  Target: at most 1.02.
- step: a training step with calibration over one without, alternately, ratio of the medians; slices
  of 128 x 128 in batches of 4 and crops of 32^3, both at width 8. Target: at most 1.3.
- memory: how much the peak of a process grows by calibrating level 1 of a crop of 80^3, features
  and result not counted, in chunks and at once; each in a process of its own. No target: a GPU of
  the smallest size has room for both, a shared CPU has other uses for it.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rig import Record, write_json

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.anchors import KNOWN, level_name
from polyclinic.algorithms.personal_filters import FilterMemory, decoder_of, overlay
from polyclinic.algorithms.scan_task import Place, ScanTask, open_scan_task
from polyclinic.data.batch import Batch
from polyclinic.exchange import State, Tensors
from polyclinic.filters import layout_of
from polyclinic.models.scan.calibration import CrossAttention
from polyclinic.study import Study, parse_study

SEQUENCES = ("flair", "t1", "t1ce", "t2")
CLASSES = ("background", "core", "oedema", "enhancing")
TARGETS = {"filters_ms": 50.0, "bytes": 1.02, "step": 1.3}
SLICES, CROPS = "2-D 128 x 128, batch 4", "3-D 32^3, batch 1"
AT_ONCE = 1 << 22


def a_study(size: tuple[int, int, int], **network: int) -> Study:
    """Four classes and four sequences; the published network but for what is given."""
    mask = {"classes": CLASSES, "regions": {"wt": CLASSES[1:]}}
    return parse_study(
        {
            "name": "bench",
            "task": {"mask": mask},
            "modalities": {m: {"kind": "volume", "features": [m]} for m in SEQUENCES},
            "scans": {"recipe": {"size": size}, "network": network},
        }
    )


def milliseconds(action: Callable[[], object]) -> float:
    """Processor time of doing it once."""
    start = time.process_time()
    action()
    return 1000.0 * (time.process_time() - start)


def filter_figures(repeats: int) -> Record:
    """A round's bookkeeping of personal filters at a site."""
    contract = fedmepd.Server().contract(a_study((80, 80, 80)))
    rng = np.random.default_rng(0)

    def drawn() -> Tensors:
        shapes = decoder_of({n: np.empty(s.shape, "f4") for n, s in contract.specs.items()})
        return {n: rng.standard_normal(a.shape, np.float32) for n, a in shapes.items()}

    broadcast, layout = drawn(), layout_of(drawn())
    memory = FilterMemory.fresh(layout, 1).trained(drawn(), drawn(), drawn(), 0)

    def after_a_round() -> None:
        now = memory.after(broadcast, 1, limit=1, share=0.1, keep=0.95)
        overlay(broadcast, now.own, now.mask)

    times = [milliseconds(after_a_round) for _ in range(repeats + 1)][1:]
    return {"filters": layout.size, "ms": round(statistics.median(times), 1)}


def byte_figures() -> Record:
    """By number of held sequences: bytes of a round and site, and over the least there is."""
    server = fedmepd.Server()
    specs = (contract := server.contract(a_study((80, 80, 80)))).specs
    found = {}
    for count in range(1, len(SEQUENCES) + 1):
        held = SEQUENCES[:count]

        def size(*roots: str) -> int:
            return sum(s.nbytes for n, s in specs.items() if n.startswith(roots))

        model = size("dec.", *(f"enc.{m}." for m in held))
        anchors = sum(specs[level_name(i)].nbytes for i in range(1, 5))
        least = 2 * model + anchors + size("store.filter.")
        down, up = (contract.nbytes_for(held, way) for way in ("state", "train"))
        found[count] = {"up": up, "down": down, "ratio": round((up + down) / least, 5)}
    return found


def a_task(study: Study, *, calibrated: bool) -> ScanTask:
    """A site that holds everything, after the first broadcast of anchors."""
    half = fedmepd.Server()
    rng, state = np.random.default_rng(0), half.initial(study).tensors
    anchors = {
        n: rng.standard_normal(a.shape, np.float32)
        for n, a in state.items()
        if n.startswith("store.anchor.")
    }
    place = Place("h1", study, SEQUENCES)
    return open_scan_task(
        place,
        State(state | anchors | {KNOWN: np.ones_like(state[KNOWN])}),
        {},
        own=fedmepd.ALONE,
        calibrated=calibrated,
        auxiliary=True,
        everything=False,
    )


def a_batch(size: tuple[int, int, int], patients: int) -> Batch:
    """Noise."""
    generator = torch.Generator().manual_seed(0)
    there = torch.ones(patients, dtype=torch.bool)
    return Batch(
        {m: torch.randn((patients, 1, *size), generator=generator) for m in SEQUENCES},
        dict.fromkeys(SEQUENCES, there[:, None]),
        dict.fromkeys(SEQUENCES, there),
        torch.randint(len(CLASSES), (patients, *size), generator=generator),
    )


def stepping(task: ScanTask, batch: Batch) -> Callable[[], None]:
    """One step of training."""
    optimiser = torch.optim.Adam(task.model.parameters(), lr=1e-4, fused=True)
    task.model.train()

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        task.loss(batch).mean().backward()
        optimiser.step()

    return step


def step_figures(repeats: int) -> Record:
    """Milliseconds of a step with and without calibration, taken alternately after one each."""
    found = {}
    for name, size, dims, patients in (
        (SLICES, (128, 128, 1), 2, 4),
        (CROPS, (32, 32, 32), 3, 1),
    ):
        study, batch = a_study(size, dims=dims, width=8), a_batch(size, patients)
        steps = [stepping(a_task(study, calibrated=c), batch) for c in (True, False)]
        times = [[milliseconds(step) for step in steps] for _ in range(repeats + 1)][1:]
        with_it, without = (statistics.median(t) for t in zip(*times, strict=True))
        found[name] = {
            "with_ms": round(with_it),
            "without_ms": round(without),
            "ratio": round(with_it / without, 3),
        }
    return found


def peak_growth(chunk: int, *, learning: bool) -> float:
    """How much this process's peak grows, in MB, by calibrating level 1 of 80^3 once."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

    layer = CrossAttention(16, 4, dropout=0.0, residual=False, chunk=chunk)
    anchors = torch.randn((16, 16))
    small = torch.randn((1, 16, 4, 4, 4), requires_grad=learning)
    layer(small, anchors)  # what is loaded at first use
    features = torch.randn((1, 16, 80, 80, 80), requires_grad=learning)
    before = peak()
    with torch.set_grad_enabled(learning):
        out = layer(features, anchors)
        if learning:
            out.sum().backward()
    result = features.nbytes * (2 if learning else 1)  # the output, and the features' gradient
    return peak() - before - result / 1e6


def memory_figures() -> Record:
    """MB beyond features and result, in chunks and at once."""
    found: Record = {}
    for name, learning in (("forward", False), ("forward and backward", True)):
        told = {}
        for how, chunk in (("chunks", 65536), ("at_once", AT_ONCE)):
            command = [sys.executable, __file__, "--peak", str(chunk)]
            command += ["--learning"] if learning else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            told[f"{how}_mb"] = round(float(done.stdout))
        found[name] = told | {"ratio": round(told["chunks_mb"] / max(told["at_once_mb"], 1), 3)}
    return found


def show(figures: Record) -> None:
    """A line for each figure."""
    cost, most = figures["filters"], TARGETS
    print(f"{cost['filters']} filters: {cost['ms']} ms (target {most['filters_ms']})")
    for count, f in figures["bytes"].items():
        told = f"{f['up']} B up, {f['down']} B down"
        print(f"{count} of 4 sequences: {told}, {f['ratio']} of the least (target {most['bytes']})")
    for name, f in figures["step"].items():
        told = f"{f['with_ms']} ms with calibration, {f['without_ms']} ms without"
        print(f"step {name}: {told}, ratio {f['ratio']} (target {most['step']})")
    for name, f in figures["memory"].items():
        told = f"{f['chunks_mb']} MB in chunks, {f['at_once_mb']} MB at once"
        print(f"calibration at 80^3, {name}: {told}, ratio {f['ratio']}")


def misses(figures: Record) -> list[str]:
    """Names of targets that are missed."""
    worst = {
        "filters_ms": figures["filters"]["ms"],
        **{name: max(f["ratio"] for f in figures[name].values()) for name in ("bytes", "step")},
    }
    return [name for name, value in worst.items() if value > TARGETS[name]]


def main() -> int:
    """Exit code 0 when every target is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--peak", type=int, help="one chunk, in this process")
    parser.add_argument("--learning", action="store_true", help="with the backward pass")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(peak_growth(args.peak, learning=args.learning))
        return 0
    # Memory first: a process begins with the peak that the one which starts it has reached.
    figures = {
        "memory": memory_figures(),
        "filters": filter_figures(args.repeats),
        "bytes": byte_figures(),
        "step": step_figures(args.steps),
    }
    show(figures)
    missed = misses(figures)
    print("every target met" if not missed else f"MISSED: {', '.join(missed)}")
    write_json(args.json, {**figures, "targets": TARGETS, "missed": missed})
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
