"""A run as it goes, in lines a person can read: who was heard, how good, what went wrong."""

import json
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.status import Status

from polyclinic.cli import output
from services import PocError

Record = Mapping[str, Any]
SHOWN = (
    ("validation/auroc", "validation AUROC"),
    ("validation/dice", "validation Dice"),
    ("test/auroc", "test AUROC"),
    ("test/dice", "test Dice"),
)
PROBLEMS = ("refused", "failed", "late", "absent", "lost")
LOOK_S = 0.2
# FLARE needs some seconds to start the job's processes; then a silent ledger means a failed job.
SILENCE_S = 20.0


def describe(record: Record, rounds: int) -> str:
    """One line for one record of a ledger; empty for those a person need not see."""
    kind = record.get("kind")
    if kind == "census":
        told = (
            f"{site} ({', '.join(said.get('modalities', ()))})"
            for site, said in sorted(record.get("sites", {}).items())
        )
        taken = f"   anchor: {record['anchor']}" if record.get("anchor") else ""
        return "sites: " + "  ".join(told) + taken + problems(record)
    if kind == "round":
        head = f"round {record['round']:>3} of {rounds}"
        heard = f"{len(record.get('heard', ()))} sites heard"
        seconds = f"{float(record.get('seconds', 0.0)):.1f} s"
        parts = [head, heard, *metrics(record), seconds]
        note = "" if record.get("status") == "folded" else "   below the quorum: model kept"
        return "   ".join(parts) + note + anchor(record) + problems(record)
    if kind == "evaluate":
        return "   ".join(["final test", *metrics(record)]) + problems(record)
    if kind == "end":
        reason = record.get("reason", "")
        return f"run {record.get('status')}" + (f": {reason}" if reason else "")
    return ""


def metrics(record: Record) -> list[str]:
    """``validation AUROC .812 (site-1 .801  site-2 .823)`` for what the sites told."""
    told = record.get("metrics", {})
    lines = []
    for name, words in SHOWN:
        values = {site: float(m[name]) for site, m in sorted(told.items()) if name in m}
        if values:
            mean = sum(values.values()) / len(values)
            each = "  ".join(f"{site} {value:.3f}" for site, value in values.items())
            lines.append(f"{words} {mean:.3f} ({each})")
    losses = [float(m["train/loss"]) for m in told.values() if "train/loss" in m]
    if losses:
        lines.append(f"loss {sum(losses) / len(losses):.3f}")
    return lines


def anchor(record: Record) -> str:
    """``   anchor step kept the last values (late)`` where it did not count; else nothing."""
    told = record.get("anchor")
    if not isinstance(told, Mapping) or told.get("status") == "absorbed":
        return ""
    return f"   anchor step kept the last values ({told.get('reason')})"


def problems(record: Record) -> str:
    """``   late: site-3`` for every answer that did not count."""
    told = ""
    for key in PROBLEMS:
        sites = record.get(key) or ()
        if isinstance(sites, Mapping):
            told += "".join(f"   {key}: {site} ({why})" for site, why in sorted(sites.items()))
        elif sites:
            told += f"   {key}: {', '.join(sites)}"
    return told


class Watcher:
    """Follows a ledger while it is written.

    Args:
        ledger: may not exist yet.
        status: FLARE's word for the state of the job, asked only when the ledger is silent.
    """

    def __init__(self, ledger: Path, status: Callable[[], str]) -> None:
        self._ledger, self._status = ledger, status
        self._read = 0
        self._rounds = 0

    def follow(self) -> None:
        """Print until the run ends.

        Raises:
            PocError: the run failed, or FLARE ended the job without a word in the ledger.
        """
        # A spinner until the first line: from then on the lines are the progress.
        with output.errors.status("waiting for the server") as waiting:
            self._follow(waiting)

    def _follow(self, waiting: Status) -> None:
        silent_since = time.monotonic()
        while True:
            news = self.news()
            for record in news:
                if record.get("kind") == "start":
                    waiting.update("waiting for the sites to say what they hold")
                self._tell(record, waiting)
                if record.get("kind") == "end":
                    if record.get("status") != "completed":
                        raise PocError(f"the run ended as {record.get('status')}")
                    return
            if news:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > SILENCE_S:
                status = self._status()
                if status.startswith("FINISHED") and not self.news():
                    raise PocError(f"FLARE ended the job as {status}")
                silent_since = time.monotonic()
            time.sleep(LOOK_S)

    def news(self) -> list[Record]:
        """Whole lines that were added since the last call."""
        try:
            with self._ledger.open("rb") as stream:
                stream.seek(self._read)
                content = stream.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _tell(self, record: Record, waiting: Status) -> None:
        self._rounds = int(record.get("rounds", self._rounds))
        line = describe(record, self._rounds)
        if line:
            waiting.stop()
            output.screen.print(shaped(line), markup=False, soft_wrap=True)


def shaped(line: str) -> str:
    """The line, indented; on a terminal broken between words, where it would be broken anyway."""
    if not output.screen.is_terminal:
        return "  " + line
    wide = output.screen.width
    return textwrap.fill(
        line, wide, initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False
    )
