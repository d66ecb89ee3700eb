"""What the benchmarks of running jobs share: a POC federation on loopback, jobs and their ledgers.

The federation is that of ``poc/run.sh``: three sites, mutual TLS, our policy in every kit. Nothing
is written outside the folder it is given; processes are ended by their ids.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "poc"), str(REPO / "tests" / "live")]

from loopback import enter_own_network  # noqa: E402

from polyclinic.data.generator import generate_consortium  # noqa: E402
from services import Services  # noqa: E402

__all__ = ["REPO", "Services", "enter_own_network"]

DEMO = REPO / "jobs" / "fedmm_demo"
Record = dict[str, Any]


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A short path of its own; FLARE and multiprocessing put sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="pc-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def generated(poc: Services) -> Services:
    """The federation with its hospitals' data; not started."""
    poc.workspace.mkdir(exist_ok=True)
    generate_consortium(poc.consortium)
    return poc


def write_job(
    folder: Path, *, study: Record, rounds: int, algorithm: str, panels: Record | None = None
) -> Path:
    """The demo job with another study, algorithm (``fedmm``, ...) and number of rounds."""
    shutil.copytree(DEMO, folder)
    config = folder / "app" / "config"
    server = json.loads((config / "config_fed_server.json").read_text())
    arguments = server["workflows"][0]["args"]
    arguments["rounds"] = rounds
    arguments["server"]["path"] = f"polyclinic.algorithms.{algorithm}.Server"
    client = json.loads((config / "config_fed_client.json").read_text())
    spec = client["executors"][0]["executor"]["args"]["client"]
    spec["path"] = f"polyclinic.algorithms.{algorithm}.Client"
    meta = json.loads((folder / "meta.json").read_text()) | {"name": folder.name}
    for path, content in (
        (config / "config_fed_server.json", server),
        (config / "config_fed_client.json", client),
        (config / "study.json", study),
        (folder / "meta.json", meta),
    ):
        path.write_text(json.dumps(content, indent=1))
    if panels is not None:
        (config / "panels.json").write_text(json.dumps(panels))
    return folder


def demo_study() -> tuple[Record, Record]:
    """``study.json`` and ``panels.json`` of the demo."""
    config = DEMO / "app" / "config"
    return tuple(json.loads((config / f"{n}.json").read_text()) for n in ("study", "panels"))


def run_job(poc: Services, job: Path, seconds: float = 300) -> list[Record]:
    """Submit, wait until the job's run ended well, and return its ledger."""
    poc.submit(job)
    wait_until_finished(poc, seconds)
    lines = [json.loads(line) for line in poc.ledger.read_text().splitlines()]
    if lines[-1].get("status") != "completed":
        raise RuntimeError(f"the run ended as {lines[-1].get('status')}: {lines[-1]}")
    return lines


def wait_until_finished(poc: Services, seconds: float) -> None:
    """Return when FLARE calls the last job completed.

    Raises:
        RuntimeError: it ended otherwise, or not in time.
    """
    deadline = time.monotonic() + seconds
    while (status := poc.status()) != "FINISHED:COMPLETED":
        if status.startswith("FINISHED") or time.monotonic() > deadline:
            raise RuntimeError(f"the job {poc.job_id} is {status} in {poc.kits}")
        time.sleep(1.0)


def round_times(lines: list[Record]) -> dict[int, float]:
    """When each round was in the ledger, in seconds since the epoch, by round."""
    return {
        line["round"]: datetime.fromisoformat(line["time"]).timestamp()
        for line in lines
        if line["kind"] == "round"
    }


def machine() -> Record:
    """What ran the benchmark, and when."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True
    )
    load = Path("/proc/loadavg")
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "python": sys.version.split()[0],
        "load": load.read_text().split()[0] if load.exists() else "",
    }


def write_json(path: Path | None, content: Record) -> None:
    """The figures, with the machine, when a path was given."""
    if path is not None:
        path.write_text(json.dumps(machine() | content, indent=1) + "\n", encoding="utf-8")
