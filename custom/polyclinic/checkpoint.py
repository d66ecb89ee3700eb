"""Checkpoints of a run: one safetensors file per folded round, named in the ledger.

The file name and the SHA-256 stand in the ledger's round line; a file that no line names does not
count. So a kill between the two writes costs that round and nothing else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from polyclinic.errors import CheckpointError
from polyclinic.exchange import Contract, State
from polyclinic.ledger import Record
from polyclinic.storage import load_tensors, remove_leftovers, save_tensors

KEEP = 2
# In a downloaded job.
COPY = "last.safetensors"


class Checkpoints:
    """The checkpoint folder of one run.

    Args:
        folder: made when the first checkpoint is saved.
        contract: what every file must hold, exactly.
    """

    def __init__(self, folder: Path, contract: Contract) -> None:
        self._folder, self._contract = folder, contract
        remove_leftovers(folder)

    def save(self, state: State, step: str = "") -> Record:
        """Write a state; returns ``{"file", "sha256", "round"}`` for the ledger.

        ``step`` ends the file's name, where a round has more than one state.
        """
        name = f"round_{state.round:05d}{step}.safetensors"
        sha256 = save_tensors(self._folder / name, state.tensors)
        return {"file": name, "sha256": sha256, "round": state.round}

    def load(self, entry: Mapping[str, object], round_: int) -> State:
        """The state that a ledger entry names, checked against hash and contract.

        Raises:
            CheckpointError: missing, altered, or not what the contract names.
        """
        name = Path(str(entry["file"])).name
        specs = self._contract.specs
        return State(load_tensors(self._folder / name, str(entry["sha256"]), specs), round_)

    def prune(self, keep: Sequence[str]) -> None:
        """Delete every checkpoint that is not among the last ``KEEP`` that the ledger names."""
        wanted = set(list(dict.fromkeys(keep))[-KEEP:])
        for path in self._folder.glob("round_*.safetensors"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def entry_of(records: Sequence[Record], round_: int) -> Record:
    """The checkpoint entry that stood after round ``round_``, by the ledger.

    Raises:
        CheckpointError: the ledger has no such round.
    """
    for record in reversed(records):
        closing = record.get("kind") in ("start", "anchor", "round")
        if closing and record.get("round") == round_:
            entry: Record = record["checkpoint"]
            return entry
    raise CheckpointError(
        expected=f"round {round_} in the run's ledger",
        got=f"{len(records)} record(s) without it",
        remedy="make the resume job from this run's ledger with 'polyclinic run resume'",
    )


def last_round(records: Sequence[Record]) -> int:
    """The last round that the ledger closed; 0 when it holds the start only."""
    rounds = [int(r["round"]) for r in records if r.get("kind") in ("start", "round")]
    return max(rounds, default=0)


def last_state(folder: Path, records: Sequence[Record], contract: Contract) -> State:
    """The state after the last round of a ledger, from the server's folder of the run or from what
    a downloaded job holds of it.

    Raises:
        CheckpointError: it is not there, altered, or not what the contract names.
    """
    round_ = last_round(records)
    entry = entry_of(records, round_)
    places = [folder / "checkpoints" / name for name in (Path(str(entry["file"])).name, COPY)]
    path = next((p for p in places if p.is_file()), places[0])
    specs = contract.only("state").specs
    # The copy has the same tensors in the same order, and so the same hash.
    return State(load_tensors(path, str(entry["sha256"]), specs), round_)
