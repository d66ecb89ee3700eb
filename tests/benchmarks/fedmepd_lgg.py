"""The job ``fedmepd_lgg`` through FLARE: five provisioned hospitals, to a page and pictures.

    python poc/cohorts.py lgg --source DIR --out lgg
    python tests/benchmarks/fedmepd_lgg.py --sites lgg --out OUT --compare lgg.json

Kits from ``provisioning/``, a process for each hospital, mutual TLS, no code in the job. OUT gets
the downloaded job (``result``), the class maps and pictures of each hospital's test patients
(``maps/SITE``), a page for everybody (``report.html``) and one with pictures for each hospital
(``SITE.html``). Told are seconds, the test Dice of each hospital as FLARE reported it, and, with
``--compare``, how far it is from what ``polyclinic compare`` found with the first seed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from rig import REPO, Record, enter_own_network, round_times, workspace, write_json

from polyclinic.jobs import load_job
from polyclinic.ledger import read_ledger

# On the path since rig is imported.
# isort: split
from federation import SERVER, Federation
from runs import copy_job

JOB = REPO / "jobs" / "fedmepd_lgg"
METHOD, COHORT = "fedmepd", "lgg"
# Of the description's admins; other hospitals send nobody to the console.
ORGANISATIONS = ("north", "west", "south")
POLYCLINIC = [sys.executable, "-m", "polyclinic.cli.main"]


def hospitals_of(sites: Path) -> list[dict[str, Any]]:
    """The cohort's sites as provisioning/consortium.yaml has hospitals."""
    found: list[dict[str, Any]] = []
    for i, path in enumerate(sorted(sites.glob("*/polyclinic.yaml"))):
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        held = [
            name
            for name, source in said["cohorts"][COHORT]["modalities"].items()
            if not source.get("evaluation_only")
        ]
        organisation = ORGANISATIONS[i] if i < len(ORGANISATIONS) else f"hospital{i}"
        cohorts = {COHORT: dict.fromkeys(held, "volume")}
        found.append({"name": said["site"], "organisation": organisation, "cohorts": cohorts})
    return found


def run_job(sites: Path, out: Path, rounds: int, hours: float) -> Record:
    """Everything from kits to pages; seconds, and the test scores of each hospital."""
    with workspace() as folder:
        federation = Federation(folder / "f", hospitals=hospitals_of(sites))
        try:
            federation.install_data(sites)
            federation.bring_up()
            started = time.monotonic()
            run = federation.submit(copy_job(JOB, folder, rounds=rounds))
            status = federation.wait(run, 3600 * hours)
            seconds = time.monotonic() - started
            if status != "FINISHED:COMPLETED":
                raise RuntimeError(f"the job is {status}: {federation.log(SERVER, run)[-2000:]}")
            result = federation.download(run)
            shutil.move(result, out / "result")
            for site in federation.sites:
                pictures(federation.kit(site) / "local", out, site)
        finally:
            federation.tear_down()
    (ledger,) = (out / "result").rglob("ledger.jsonl")
    lines = read_ledger(ledger)
    times = sorted(round_times(lines).values())
    told = next(line for line in lines if line["kind"] == "evaluate")["metrics"]
    scores = {site: {k: v for k, v in m.items() if "/dice" in k} for site, m in told.items()}
    per_round = (times[-1] - times[0]) / max(1, len(times) - 1)
    return {"seconds": seconds, "per_round": per_round, "rounds": len(times), "scores": scores}


def pictures(site_folder: Path, out: Path, site: str) -> None:
    """What a hospital makes of the run for its own test patients, and the page that stays there."""
    maps = out / "maps" / site
    maps.parent.mkdir(exist_ok=True)
    command = [*POLYCLINIC, "run", "predict", str(out / "result"), "--site", str(site_folder)]
    subprocess.run([*command, "--out", str(maps), "--split", "test", "--overlays"], check=True)
    command = [*POLYCLINIC, "run", "report", str(out / "result"), "--overlays", str(maps)]
    subprocess.run([*command, "-o", str(out / f"{site}.html")], check=True)


def one_process(comparison: Path, rounds: int) -> dict[str, float]:
    """Test Dice of each hospital in the first repeat of a comparison.

    Raises:
        ValueError: it used another seed or number of rounds, or left the method out.
    """
    said = json.loads(comparison.read_text(encoding="utf-8"))
    made = said["settings"]
    if (made["seed"], made["methods"].get(METHOD, {}).get("rounds")) != (0, rounds):
        raise ValueError(f"expected a comparison of {METHOD}, seed 0, {rounds} rounds")
    return {
        r["site"]: r["value"]
        for r in said["records"]
        if (r["method"], r["repeat"], r["metric"], r["test"]) == (METHOD, 0, "dice", "own")
    }


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--compare", type=Path, help="of polyclinic compare --seed 0 --json")
    parser.add_argument("--rounds", type=int, default=0, help="default: the job's")
    parser.add_argument("--hours", type=float, default=2.0, help="to wait for the end")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rounds = args.rounds or load_job(JOB).rounds
    reference = one_process(args.compare, rounds) if args.compare else {}
    args.out.mkdir(parents=True)
    sites, out = args.sites.resolve(), args.out.resolve()
    enter_own_network()
    figures = run_job(sites, out, rounds, args.hours)
    write_json(args.json, figures)
    print(f"{figures['rounds']} rounds in {figures['seconds']:.0f} s", end="")
    print(f", {figures['per_round']:.1f} s from one round to the next")
    for site, scores in sorted(figures["scores"].items()):
        print(f"{site}: Dice {scores['test/dice']:.3f}, global {scores['test/dice/global']:.3f}")
    if reference:
        found = figures["scores"]
        far = {site: found[site]["test/dice"] - value for site, value in reference.items()}
        print(f"largest difference to one process: {max(map(abs, far.values())):.2g}")
        write_json(args.json, figures | {"difference": far})
    command = [*POLYCLINIC, "run", "report", str(out / "result"), "-o", str(out / "report.html")]
    command += ["--compare", str(args.compare)] if args.compare else []
    subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
