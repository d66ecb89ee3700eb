"""Files are whole or not there, and what is read is what was written."""

import hashlib
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polyclinic.checkpoint import Checkpoints, entry_of, last_round
from polyclinic.errors import CheckpointError
from polyclinic.exchange import Contract, TensorSpec
from polyclinic.ledger import read_ledger
from polyclinic.storage import load_tensors, save_tensors, write_atomic

SPECS = {"a": TensorSpec((4, 2)), "b": TensorSpec((3,))}
TENSORS = {
    "a": np.arange(8, dtype=np.float32).reshape(4, 2),
    "b": np.array([1.5, -2.0, 0.0], np.float32),
}


def test_what_is_loaded_is_what_was_saved_bit_for_bit(tmp_path: Path) -> None:
    sha256 = save_tensors(tmp_path / "s.safetensors", TENSORS)
    loaded = load_tensors(tmp_path / "s.safetensors", sha256, SPECS)
    assert {n: a.tobytes() for n, a in loaded.items()} == {
        n: a.tobytes() for n, a in TENSORS.items()
    }


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("not a checkpoint", encoding="utf-8")


def _flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_truncate, _empty, _text, _flip_one_bit])
def test_f23_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "s.safetensors"
    sha256 = save_tensors(path, TENSORS)
    damage(path)
    with pytest.raises(CheckpointError):
        load_tensors(path, sha256, SPECS)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a14_a_pickle_in_place_of_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    path, sprung = tmp_path / "s.safetensors", tmp_path / "sprung"
    content = pickle.dumps(_Trap(sprung))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="safetensors"):
        load_tensors(path, hashlib.sha256(content).hexdigest(), SPECS)
    assert not sprung.exists()
    pickle.loads(content)
    assert sprung.exists()  # it would have run


@pytest.mark.parametrize(
    "bad",
    [
        {"a": np.full((4, 2), np.nan, np.float32)},
        {"a": np.zeros((2, 4), np.float32)},
        {"a": np.zeros((4, 2), np.float64)},
        {"c": np.zeros(1, np.float32)},
    ],
    ids=["nan", "shape", "dtype", "name"],
)
def test_f23_a_whole_file_with_wrong_content_is_refused(
    tmp_path: Path, bad: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "s.safetensors"
    sha256 = save_tensors(path, {**TENSORS, **bad})
    with pytest.raises(CheckpointError):
        load_tensors(path, sha256, SPECS)


def test_f22_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    sha256 = save_tensors(path, TENSORS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointError, match=r"room .* to write"):
            save_tensors(path, {"a": np.ones((200, 200), np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]
    assert load_tensors(path, sha256, SPECS)["b"][0] == 1.5


def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="then resume the run"):
        write_atomic(tmp_path / "file" / "x", b"1")


WRITER = """
import sys
from pathlib import Path
import numpy as np
from polyclinic.checkpoint import Checkpoints
from polyclinic.exchange import Contract, State, TensorSpec
from polyclinic.ledger import Ledger

folder = Path(sys.argv[1])
contract = Contract({"w": TensorSpec((250_000,))})
checkpoints, ledger = Checkpoints(folder / "c", contract), Ledger(folder / "ledger.jsonl")
for t in range(1, 10_000):
    state = State({"w": np.full(250_000, t, np.float32)}, t)
    ledger.append({"kind": "round", "round": t, "checkpoint": checkpoints.save(state)})
    checkpoints.prune([r["checkpoint"]["file"] for r in ledger.records])
    print(t, flush=True)
"""


@pytest.mark.slow
def test_f06_a_server_killed_at_any_moment_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    rng = random.Random(6)
    contract = Contract({"w": TensorSpec((250_000,))})
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        command = [sys.executable, "-c", WRITER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()  # the first checkpoint is there
            time.sleep(rng.uniform(0.0, 0.05))
            writer.kill()
        records = read_ledger(folder / "ledger.jsonl")
        last = last_round(records)
        checkpoints = Checkpoints(folder / "c", contract)
        state = checkpoints.load(entry_of(records, last), last)
        assert (state.tensors["w"] == last).all()
        assert not list((folder / "c").glob(".*"))
