"""Seconds of ``polyclinic compare``: 5 methods, 10 repeats, 40 rounds on breast, plan ``paper3``.

    python tests/benchmarks/compare_time.py --source DIR --json OUT

DIR holds the tables of the cohort, as ``poc/cohorts.py`` reads them. Fewer repeats or rounds only
show that it runs: start-up is most of their time. Target: at most 600 s on 2 cores.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from rig import REPO, workspace, write_json

TARGET = 600.0
METHODS = "local,multi_fedavg,fedmm,fedmm_no_prototypes,centralised"
REPEATS, ROUNDS = 10, 40


def main() -> int:
    """Exit code 0 when the target is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    with workspace() as folder:
        build = [sys.executable, str(REPO / "poc" / "cohorts.py"), "tcga_brca", "--plan", "paper3"]
        build += ["--source", str(args.source), "--out", str(folder / "sites")]
        subprocess.run(build, check=True, stdin=subprocess.DEVNULL)
        compare = [sys.executable, "-m", "polyclinic.cli.main", "compare", "--methods", METHODS]
        compare += ["--sites", str(folder / "sites"), "--json", str(folder / "out.json")]
        compare += ["--repeats", str(args.repeats), "--rounds", str(args.rounds)]
        started = time.monotonic()
        subprocess.run(compare, check=True, stdin=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        records = len(json.loads((folder / "out.json").read_text())["records"])
    met = seconds <= TARGET if (args.repeats, args.rounds) == (REPEATS, ROUNDS) else None
    verdict = {True: "met", False: "MISSED", None: "not judged at this size"}[met]
    print(f"{args.repeats} repeats of {args.rounds} rounds: {seconds:.0f} s, {records} records")
    print(f"target {TARGET:.0f} s for {REPEATS} of {ROUNDS}: {verdict}")
    figures = {"repeats": args.repeats, "rounds": args.rounds, "seconds": round(seconds, 1)}
    write_json(args.json, figures | {"target": TARGET, "met": met})
    return 1 if met is False else 0


if __name__ == "__main__":
    raise SystemExit(main())
