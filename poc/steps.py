"""The steps of ``poc/run.sh``, one function each; ``all`` runs them in order and cleans up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import lock
from polyclinic.cli import output
from polyclinic.data.generated.five import SLIDES, TRUNK, generate_five_kinds
from polyclinic.errors import PolyclinicError
from services import PocError, Services
from watch import Watcher

HERE = Path(__file__).resolve().parent
JOB = HERE.parent / "jobs" / "fedmm_plus_five_kinds"
WORKSPACE = Path(os.environ.get("POLYCLINIC_POC_WORKSPACE", HERE / "workspace")).resolve()
METHODS = "local,fedmm_plus"
REPEATS = 1
POLYCLINIC = [sys.executable, "-m", "polyclinic.cli.main"]


def data(poc: Services) -> None:
    """Generate the hospitals' files, and make bags of features of their slides."""
    shutil.rmtree(poc.consortium, ignore_errors=True)
    for site in generate_five_kinds(poc.consortium):
        if (site / SLIDES).is_dir():
            words = ["data", "import", "slides", str(site / SLIDES), str(site)]
            words += ["--weights", TRUNK, "--keep-names"]
            command = [*POLYCLINIC, *words]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def up(poc: Services) -> None:
    """Make kits, put each hospital's settings and our policy into them, start everything."""
    poc.prepare()
    poc.start()


def submit(poc: Services) -> None:
    """Submit the demo job and remember its id."""
    output.screen.print(f"  job {poc.submit(JOB)}")


def watch(poc: Services) -> None:
    """Show the rounds as the server's ledger grows, until the run ends."""
    Watcher(poc.ledger, poc.status).follow()


def report(poc: Services) -> None:
    """Download the result, run the same methods in one process, write the page."""
    result = poc.download()
    comparison = poc.workspace / "compare.json"
    config = json.loads((JOB / "app/config/config_fed_server.json").read_text("utf-8"))
    rounds = config["workflows"][0]["args"]["rounds"]
    command = [*POLYCLINIC, "compare", "--sites", str(poc.consortium), "--methods", METHODS]
    command += ["--repeats", str(REPEATS), "--rounds", str(rounds), "--json", str(comparison)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    page = poc.workspace / "report.html"
    command = [*POLYCLINIC, "run", "report", str(result), "--compare", str(comparison)]
    subprocess.run([*command, "-o", str(page)], check=True, stdin=subprocess.DEVNULL)


def down(poc: Services) -> None:
    """Stop server and sites."""
    poc.stop()


def clean(poc: Services) -> None:
    """Stop, and remove everything but the page, the result and the log."""
    poc.stop()
    for folder in (poc.home, poc.root, poc.consortium):
        shutil.rmtree(folder, ignore_errors=True)
    for leftover in ("job_id", "project.yml", "compare.json"):
        (poc.workspace / leftover).unlink(missing_ok=True)


STEPS: dict[str, tuple[Callable[[Services], None], str]] = {
    "data": (data, "three generated hospitals with five kinds of data"),
    "up": (up, "nvflare poc: server and three sites"),
    "submit": (submit, "the job fedmm_plus_five_kinds"),
    "watch": (watch, "its rounds"),
    "report": (report, "the result, a comparison, one page"),
    "down": (down, "stop server and sites"),
    "clean": (clean, "stop, and keep the page, the result and the log"),
}
# Only reads, so it may follow a run that another terminal started, and is no reason to wait.
UNLOCKED = ("watch",)


def take(name: str, poc: Services) -> None:
    """One step, with its name before and its time after."""
    function, title = STEPS[name]
    started = time.monotonic()
    output.screen.print(f"[bold]{name}[/] {title}")
    function(poc)
    output.screen.print(f"  [dim]{time.monotonic() - started:.1f} s[/]")


def take_all(poc: Services) -> None:
    """Every step; what was started is stopped and cleaned whatever happens."""
    started = time.monotonic()
    try:
        take("clean", poc)
        for name in ("data", "up", "submit", "watch", "report"):
            take(name, poc)
    finally:
        # A second Ctrl-C must not leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        take("clean", poc)
    output.screen.print(f"done in {time.monotonic() - started:.0f} s", style="bold green")
    output.screen.print(f"report: {poc.workspace / 'report.html'}", soft_wrap=True, markup=False)


def main(argv: list[str]) -> int:
    """Exit code: 0, 1 when a step failed, 4 for bad input, 130 when interrupted."""
    # `kill` and a closed terminal clean up as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    step = argv[0] if argv else "all"
    poc = Services(WORKSPACE)
    try:
        with nullcontext() if step in UNLOCKED else lock.held(WORKSPACE):
            if step == "all":
                take_all(poc)
            else:
                take(step, poc)
    except PolyclinicError as error:
        output.refuse(error)
        return output.BAD_INPUT
    except PocError as error:
        output.errors.print(f"error: {error}", markup=False)
        return output.FAILED_CHECK
    except subprocess.CalledProcessError as error:
        output.errors.print(f"error: a command ended with {error.returncode}", markup=False)
        return output.FAILED_CHECK
    except KeyboardInterrupt:
        output.errors.print("interrupted")
        return 130
    return output.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
