"""Personal state on the site's disk: what a site must remember between rounds and never sends.

``<storage>/personal/<run>/round_<t>.safetensors``, and ``latest.json`` with the SHA-256 of the
rounds kept. Only the owner of the process may read them. A file that is torn or altered is passed
over for the round before it.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

from polyclinic.errors import CheckpointError
from polyclinic.exchange import Tensors
from polyclinic.storage import load_tensors, remove_leftovers, save_tensors, write_atomic

KEEP = 2
RUN = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class PersonalStore:
    """Rounds of one run at one site.

    Args:
        storage: the site's storage folder.
        run: lineage id; a resumed job carries the first job's.

    Raises:
        CheckpointError: ``run`` cannot be a folder name.
    """

    def __init__(self, storage: Path, run: str) -> None:
        if not RUN.fullmatch(run):
            raise CheckpointError(
                expected="a run id of letters, digits, '.', '_' and '-'",
                got=f"{len(run)} characters with others among them",
                remedy="correct 'run' in config_fed_client.json",
                owner="researcher",
            )
        self.folder = storage / "personal" / run

    def save(self, tensors: Tensors, t: int) -> None:
        """Keep the tensors of round ``t``; rounds after it, and all but the last two, go."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        sums = {r: s for r, s in self._sums().items() if r < t}
        sums[t] = save_tensors(self._path(t), tensors)
        kept = dict(sorted(sums.items())[-KEEP:])
        latest = {"latest": t, "sha256": {str(r): s for r, s in kept.items()}}
        write_atomic(self.folder / "latest.json", json.dumps(latest).encode())
        for path in self.folder.glob("round_*.safetensors"):
            if path not in {self._path(r) for r in kept}:
                path.unlink(missing_ok=True)

    def load(self, before: int) -> Tensors:
        """The newest tensors of a round before this one, empty when there is none.

        A site that was away for some rounds continues with what it had.

        Raises:
            CheckpointError: there are such rounds, and all of them are torn or altered.
        """
        sums = self._sums()
        rounds = [r for r in sorted(sums, reverse=True) if r < before]
        for r in rounds:
            with suppress(CheckpointError):
                return load_tensors(self._path(r), sums[r])
        if rounds:
            raise _unusable(f"{len(rounds)} torn or altered file(s)")
        return {}

    def _path(self, t: int) -> Path:
        return self.folder / f"round_{t}.safetensors"

    def _sums(self) -> dict[int, str]:
        path = self.folder / "latest.json"
        if not path.exists():
            return {}
        try:
            recorded = json.loads(path.read_text(encoding="utf-8"))["sha256"]
            return {int(r): str(s) for r, s in recorded.items()}
        except (ValueError, KeyError, AttributeError, TypeError, OSError):
            raise _unusable("a torn or altered latest.json") from None


def _unusable(got: str) -> CheckpointError:
    return CheckpointError(
        expected="personal state as this site wrote it",
        got=got,
        remedy="restore the storage folder, or remove this run's part of it to start anew",
    )
