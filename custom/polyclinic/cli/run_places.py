"""Where the parts of a run lie: at the server, in a downloaded job, in the job that began it."""

from collections.abc import Iterator
from pathlib import Path

from polyclinic.errors import CheckpointError

LEDGER = "ledger.jsonl"


def find_ledger(place: Path) -> Path:
    """The one ledger at or below a place.

    Raises:
        CheckpointError: none, or several.
    """
    if place.is_file():
        return place
    found = sorted(p for p in place.rglob(LEDGER) if p.is_file())
    if len(found) != 1:
        raise CheckpointError(
            expected="the folder of one run, with its ledger.jsonl",
            got=f"one with {len(found)}" if found else "a place without",
            remedy="name a downloaded job, or the folder of one run at the server",
            owner="researcher",
        )
    return found[0]


def near(ledger: Path, name: str) -> Path | None:
    """A file of the job's configuration: beside the ledger, or in the job that was downloaded with
    it; None when neither."""
    return next((p for p in _places(ledger, name) if p.is_file()), None)


def _places(ledger: Path, name: str) -> Iterator[Path]:
    yield ledger.parent / name
    for folder in ledger.parents[:4]:
        yield from sorted(folder.glob(f"app*/config/{name}"))  # FLARE names it app_server
