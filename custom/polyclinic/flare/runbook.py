"""Everything a run writes on the server: its ledger, its checkpoints, and a copy for download.

    <storage>/runs/<run>/                  lasts beyond the job; where a resume looks
        ledger.jsonl  study.json  checkpoints/round_00007.safetensors
    <FLARE run dir of the job>/polyclinic/     what `nvflare job download` returns
        ledger.jsonl  record.json  checkpoints/last.safetensors

``<storage>`` is ``storage`` in the server's ``local/polyclinic.yaml``. Without that file the run's
own FLARE run directory is the only place, which still serves a resume after a server was killed.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from nvflare.apis.workspace import Workspace

from polyclinic.checkpoint import Checkpoints, entry_of, last_round
from polyclinic.errors import CheckpointError, StudyError
from polyclinic.exchange import Contract, State
from polyclinic.flare.convert import ANCHOR
from polyclinic.ledger import Ledger, Record, read_ledger
from polyclinic.settings import load_settings
from polyclinic.storage import save_tensors, write_atomic
from polyclinic.study import Study

_RUN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
FOLDER, LEDGER = "polyclinic", "ledger.jsonl"
# Stands for the newest completed run of the job's study and algorithm.
LATEST = "latest"


def run_folder(workspace: Workspace, run: str) -> Path:
    """Where the server keeps a run.

    Raises:
        StudyError: ``run``, which a job states, is not a plain run id.
    """
    if not _RUN.match(run):
        raise StudyError(
            expected="a run id", got="other characters", remedy="use the first job's id"
        )
    settings = Path(workspace.get_site_config_dir()) / "polyclinic.yaml"
    if settings.is_file():
        return Path(load_settings(settings).storage) / "runs" / run
    return Path(workspace.get_root_dir()) / run / FOLDER


def latest_run(workspace: Workspace, study: Study, algorithm: str) -> tuple[str, int]:
    """Id and last round of the newest run of a study under an algorithm that was completed here.

    Args:
        algorithm: class path of its server half, as the run's first line states it.

    Raises:
        CheckpointError: there is none in the server's storage.
    """
    found: list[tuple[str, str, int]] = []
    for path in run_folder(workspace, LATEST).parent.glob(f"*/{LEDGER}"):
        try:
            records = read_ledger(path)
        except CheckpointError:
            continue  # a run whose ledger is broken cannot be continued; others can
        start = next((r for r in records if r.get("kind") == "start"), {})
        ended = any(r.get("kind") == "end" and r.get("status") == "completed" for r in records)
        same = (start.get("study"), start.get("algorithm")) == (study.fingerprint(), algorithm)
        if ended and same:
            found.append((str(start["time"]), str(start["run"]), last_round(records)))
    if not found:
        raise CheckpointError(
            expected="a completed run of this study and algorithm in the server's storage",
            got="none",
            remedy="train first, with the same study.json and algorithm",
            owner="researcher",
        )
    return max(found)[1:]


class RunBook:
    """The open book of one run.

    Args:
        folder: from ``run_folder``.
        job_folder: the FLARE run directory of this job.
        contract: what a checkpoint must hold.
    """

    def __init__(self, folder: Path, job_folder: Path, contract: Contract) -> None:
        self._folder, self._copy = folder, job_folder / FOLDER
        self._checkpoints = Checkpoints(folder / "checkpoints", contract.only("state"))
        self.ledger = Ledger(folder / LEDGER, mirror=self._copy / LEDGER)

    def begin(self, study: Study, state: State, facts: Record) -> State:
        """Open a new run with its initial state.

        Raises:
            CheckpointError: the folder already holds a run.
        """
        if self.ledger.records:
            raise CheckpointError(
                expected="an empty folder for a new run",
                got=f"a ledger of {len(self.ledger.records)} record(s)",
                remedy="resume that run, or clear its folder",
            )
        write_atomic(self._folder / "study.json", study.model_dump_json(indent=1).encode())
        self.write("start", {**facts, "round": 0, "study": study.fingerprint()}, state)
        return state

    def resume(self, study: Study, round_: int, facts: Record) -> State:
        """The state after round ``round_`` of a run that is in the folder.

        Raises:
            CheckpointError: no such run or round, another study, or its checkpoint is not whole.
        """
        records = self.ledger.records
        start = next((r for r in records if r["kind"] == "start"), None)
        if start is None or start["study"] != study.fingerprint():
            raise CheckpointError(
                expected="a run of this study in the server's storage",
                got="none" if start is None else "a run of another study",
                remedy="give the resume job the run id and the study of the run it continues",
            )
        if round_ != last_round(records):
            raise CheckpointError(
                expected=f"a resume at round {last_round(records)}, the last in the ledger",
                got=f"round {round_}",
                remedy="make the resume job again from this run's ledger",
            )
        entry = entry_of(records, round_)
        state = self._checkpoints.load(entry, round_)
        self.write("resume", {**facts, "round": round_, "checkpoint": entry})
        return state

    def write(self, kind: str, record: Record, state: State | None = None) -> Record:
        """Append a record; with a state, its checkpoint is on disk and in the record first."""
        line = {
            "kind": kind,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **record,
        }
        if state is not None:
            # The file that an earlier line names is not replaced: a kill may come in between.
            step = f"_{kind}" if kind == ANCHOR else ""
            line["checkpoint"] = self._checkpoints.save(state, step)
        self.ledger.append(line)
        if state is not None:
            files = [r["checkpoint"]["file"] for r in self.ledger.records if "checkpoint" in r]
            self._checkpoints.prune(files)
        return line

    @property
    def checkpoint(self) -> Record:
        """The entry of the newest checkpoint."""
        entry: Record = next(
            r["checkpoint"] for r in reversed(self.ledger.records) if "checkpoint" in r
        )
        return entry

    def end(self, state: State, record: Record) -> None:
        """Close the book: last line, and the copies that travel with the job's result."""
        self.write("end", record)
        sha256 = save_tensors(self._copy / "checkpoints" / "last.safetensors", state.tensors)
        rounds = [r for r in self.ledger.records if r["kind"] != "start"]
        content = {**record, "sha256": sha256, "records": rounds}
        write_atomic(self._copy / "record.json", json.dumps(content, indent=1).encode())
