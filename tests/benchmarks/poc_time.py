"""Seconds of ``./poc/run.sh`` from an installed environment to the report, step by step.

    python tests/benchmarks/poc_time.py --json OUT

The environment must be there (``./poc/run.sh env``). Target: at most 180 s on 2 cores.
"""

import argparse
import os
import subprocess
import time
from pathlib import Path

from figures import step_seconds
from rig import REPO, enter_own_network, workspace, write_json

TARGET = 180.0


def main() -> int:
    """Exit code 0 when the target is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    enter_own_network()
    with workspace() as folder:
        environment = os.environ | {"POLYCLINIC_POC_WORKSPACE": str(folder / "w")}
        started = time.monotonic()
        done = subprocess.run(
            [str(REPO / "poc" / "run.sh")],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        seconds = round(time.monotonic() - started, 1)
        if done.returncode or not (folder / "w" / "report.html").exists():
            print(done.stdout, done.stderr)
            return 1
    steps = step_seconds(done.stdout)
    for name, taken in steps.items():
        print(f"{name}: {taken:.1f} s")
    met = seconds <= TARGET
    print(f"all: {seconds} s (target {TARGET:.0f} s): {'met' if met else 'MISSED'}")
    write_json(args.json, {"seconds": seconds, "steps": steps, "target": TARGET, "met": met})
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
