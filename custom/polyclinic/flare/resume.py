"""A job that continues a run where its ledger ends.

FLARE cannot resume: after the server process was killed, a job stays RUNNING for ever and its
snapshots are empty. So the way back is a new job that names the run it continues. It carries no
path and no model: the server looks the run up in its own storage by its id, and checks the
checkpoint against the ledger before it is used.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from polyclinic.checkpoint import last_round
from polyclinic.errors import CheckpointError, StudyError
from polyclinic.flare.runbook import LEDGER
from polyclinic.ledger import read_ledger

SERVER, CLIENT = "config_fed_server.json", "config_fed_client.json"


def make_resume_job(job_folder: Path, run_dir: Path, out: Path) -> Path:
    """The folder of a job that continues a run; ready to submit.

    Args:
        job_folder: the job that began the run (or an earlier resume of it).
        run_dir: a folder with the run's ``ledger.jsonl``: the server's ``runs/<run>``, or
            ``polyclinic/`` in a downloaded job.
        out: folder to make; it must not exist.

    Raises:
        CheckpointError: no ledger, a broken one, or one that has nothing to continue.
        StudyError: the job is not one of ours, has fewer rounds than the run, or ``out`` exists.
    """
    records = read_ledger(run_dir / LEDGER)
    start = next((r for r in records if r["kind"] == "start"), None)
    if start is None:
        raise CheckpointError(
            expected="a ledger that begins a run",
            got=f"{len(records)} other record(s)",
            remedy="submit the job anew: there is nothing to continue",
        )
    if out.exists():
        raise StudyError(
            expected="a new folder for the resume job", got="one that exists", remedy="name another"
        )
    done = last_round(records)
    shutil.copytree(job_folder, out)
    _edit(out, SERVER, {"run": start["run"], "start_round": done}, at_most=done)
    _edit(out, CLIENT, {"run": start["run"]})
    return out


def _edit(job: Path, name: str, facts: dict[str, Any], at_most: int = 0) -> None:
    """Set arguments of our component in one of the job's configuration files."""
    path = job / "app" / "config" / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = content.get("workflows") or [e["executor"] for e in content["executors"]]
        ours = [c for c in listed if str(c["path"]).startswith("polyclinic.flare.")]
        args = ours[0].setdefault("args", {})
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _not_ours(name, type(error).__name__) from None
    if at_most > args.get("rounds", at_most):
        raise _not_ours(name, f"{args['rounds']} rounds for a run that has done {at_most}")
    args.update(facts)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _not_ours(name: str, got: str) -> StudyError:
    return StudyError(
        expected=f"a polyclinic job in app/config/{name}",
        got=got,
        remedy="give the folder of the job that began the run",
    )
