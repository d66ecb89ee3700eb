"""The state that a run's ledger closed last, wherever the run lies."""

from pathlib import Path

import numpy as np
import pytest

from polyclinic.checkpoint import COPY, Checkpoints, last_state
from polyclinic.errors import CheckpointError
from polyclinic.exchange import Contract, State, TensorSpec
from polyclinic.ledger import Record

# A site's vote is sent and never part of a state.
CONTRACT = Contract({"dec.w": TensorSpec((2,)), "store.vote": TensorSpec((1,), ways=("train",))})


def run(folder: Path, rounds: int = 2) -> list[Record]:
    """A run whose state after round t is t everywhere."""
    checkpoints = Checkpoints(folder / "checkpoints", CONTRACT.only("state"))
    records: list[Record] = []
    for t in range(rounds + 1):
        entry = checkpoints.save(State({"dec.w": np.full(2, t, np.float32)}, t))
        kind = "round" if t else "start"
        records.append({"kind": kind, "round": t, "checkpoint": entry})
    return records


def test_the_last_round_counts(tmp_path: Path) -> None:
    state = last_state(tmp_path, run(tmp_path), CONTRACT)
    assert state.round == 2
    assert state.tensors["dec.w"].tolist() == [2.0, 2.0]


def test_a_downloaded_job_has_the_same_state_under_another_name(tmp_path: Path) -> None:
    records = run(tmp_path)
    folder = tmp_path / "checkpoints"
    (folder / "round_00002.safetensors").rename(folder / COPY)
    assert last_state(tmp_path, records, CONTRACT).tensors["dec.w"].tolist() == [2.0, 2.0]


def test_another_rounds_state_is_not_taken_for_the_last(tmp_path: Path) -> None:
    records = run(tmp_path)
    folder = tmp_path / "checkpoints"
    (folder / "round_00002.safetensors").unlink()
    (folder / "round_00001.safetensors").rename(folder / COPY)
    with pytest.raises(CheckpointError, match="SHA-256"):
        last_state(tmp_path, records, CONTRACT)


def test_a_run_without_its_checkpoint_is_refused(tmp_path: Path) -> None:
    records = run(tmp_path)
    (tmp_path / "checkpoints" / "round_00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="readable"):
        last_state(tmp_path, records, CONTRACT)
    with pytest.raises(CheckpointError, match="round 0"):
        last_state(tmp_path, [], CONTRACT)
