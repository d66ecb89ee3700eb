"""The steps of ``poc/run.sh``, one function each; ``all`` runs them in order and cleans up.

Which demo it is stands beside the consortium that ``data`` made, for the steps after it.
"""

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
from demos import CHOICE, DEMOS, POLYCLINIC, Demo
from polyclinic.cli import output
from polyclinic.errors import PolyclinicError
from services import PocError, Services
from watch import Watcher

HERE = Path(__file__).resolve().parent
WORKSPACE = Path(os.environ.get("POLYCLINIC_POC_WORKSPACE", HERE / "workspace")).resolve()
REPEATS = 1
FIRST = "five_kinds"


def chosen(poc: Services) -> Demo:
    """The demo whose files there are."""
    try:
        return DEMOS[(poc.workspace / CHOICE).read_text(encoding="utf-8").strip()]
    except (OSError, KeyError):
        return DEMOS[FIRST]


def data(poc: Services) -> None:
    """Generate the hospitals' files."""
    shutil.rmtree(poc.consortium, ignore_errors=True)
    chosen(poc).generate(poc.consortium)


def up(poc: Services) -> None:
    """Make kits, put each hospital's settings and our policy into them, start everything."""
    poc.prepare()
    poc.start()


def submit(poc: Services) -> None:
    """Submit the demo job and remember its id."""
    job = chosen(poc).job
    output.screen.print(f"  {job.name}: job {poc.submit(job)}")


def watch(poc: Services) -> None:
    """Show the rounds as the server's ledger grows, until the run ends."""
    Watcher(poc.ledger, poc.status).follow()


def report(poc: Services) -> None:
    """Download the result, run the same methods in one process, write the page."""
    result, demo = poc.download(), chosen(poc)
    comparison = poc.workspace / "compare.json"
    comparison.unlink(missing_ok=True)  # of an earlier report
    config = json.loads((demo.job / "app/config/config_fed_server.json").read_text("utf-8"))
    rounds = config["workflows"][0]["args"]["rounds"]
    command = [*POLYCLINIC, "compare", "--sites", str(poc.consortium), *demo.options]
    command += [
        "--methods",
        demo.methods,
        "--repeats",
        str(REPEATS),
        "--rounds",
        str(rounds),
        "--json",
        str(comparison),
    ]
    too = ", and the job's own algorithm," if "--job" in demo.options else ""
    told = f"  trains {demo.methods}{too} in one process, to compare"
    output.screen.print(told, markup=False)
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
    for leftover in ("job_id", "project.yml", "compare.json", CHOICE):
        (poc.workspace / leftover).unlink(missing_ok=True)


STEPS: dict[str, tuple[Callable[[Services], None], str]] = {
    "data": (data, "the hospitals' files"),
    "up": (up, "nvflare poc: server and three sites"),
    "submit": (submit, "the job"),
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


def choose(poc: Services, demo: str) -> None:
    """Remember which demo the steps are about to show."""
    poc.workspace.mkdir(parents=True, exist_ok=True)
    (poc.workspace / CHOICE).write_text(demo + "\n", encoding="utf-8")
    output.screen.print(DEMOS[demo].title)


def take_all(poc: Services, demo: str) -> None:
    """Every step; what was started is stopped and cleaned whatever happens."""
    started = time.monotonic()
    try:
        take("clean", poc)
        choose(poc, demo)
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
    step, demo = (argv[0] if argv else "all"), (argv[1] if argv[1:] else FIRST)
    if demo not in DEMOS:
        output.errors.print(f"Expected {' or '.join(DEMOS)}, got '{demo}'.", markup=False)
        return output.BAD_INPUT
    poc = Services(WORKSPACE)
    try:
        with nullcontext() if step in UNLOCKED else lock.held(WORKSPACE):
            if step == "all":
                take_all(poc, demo)
            else:
                if step == "data":
                    choose(poc, demo)
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
