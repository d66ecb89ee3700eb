"""What a comparison found, in one JSON file that grows run by run and can be gone on from."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polyclinic
from polyclinic.comparison.experiment import Plan
from polyclinic.comparison.runs import Record, Run, Task
from polyclinic.errors import StudyError
from polyclinic.evaluation.comparison_file import read_comparison
from polyclinic.settings import SETTINGS_FILE, load_settings
from polyclinic.storage import write_atomic

DEFAULTS = ("files.csv", "slides.csv")
"""Tables that are read from the root of a cohort where none is named."""

GROWS = ("methods", "repeats")
"""Settings of which a comparison may have more than the file that it goes on from."""


@dataclass
class Results:
    """Runs by method and repeat.

    Attributes:
        path: file that is written after every run; None keeps nothing.
        settings: everything needed to run this again, see ``settings_of``.
        written: the file's content as this command knows it.
    """

    path: Path | None
    settings: dict[str, Any]
    runs: dict[Task, Run] = field(default_factory=dict)
    written: bytes = b""

    def add(self, run: Run) -> None:
        """One more run, on disk before the next."""
        self.runs[run.task] = run
        self.write()

    def write(self, **more: Any) -> None:
        """Write everything so far, and this.

        Raises:
            StudyError: another command wrote to the file meanwhile.
        """
        if self.path is None:
            return
        if self.path.exists() and self.path.read_bytes() != self.written:
            raise StudyError(
                expected="a file of this command's own after --json",
                got="one that another wrote to meanwhile",
                remedy="name another file; what the other found is kept",
            )
        text = json.dumps(self.told() | more, indent=1, allow_nan=False) + "\n"
        write_atomic(self.path, text.encode())
        self.written = text.encode()

    def told(self) -> dict[str, Any]:
        """``records``, ``seconds`` and ``failed`` runs, repeat by repeat, and ``settings``."""
        order = {name: i for i, name in enumerate(self.settings["methods"])}
        runs = sorted(self.runs.values(), key=lambda r: (r.repeat, order[r.method]))
        heads = [(r, {"method": r.method, "repeat": r.repeat}) for r in runs]
        return {
            "records": [record for r in runs for record in r.records],
            "seconds": [h | {"seconds": r.seconds} for r, h in heads if not r.reason],
            "failed": [h | {"reason": r.reason} for r, h in heads if r.reason],
            "settings": self.settings,
        }


def settings_of(plan: Plan) -> dict[str, Any]:
    """Everything needed to run this again, as JSON gives it back; marks of the sites' patients."""
    methods = {}
    for name, method in plan.methods.items():
        client, server = method.halves()
        methods[name] = {
            "client": _described(client),
            "server": _described(server),
            "pool": method.pool,
            "rounds": method.rounds(plan.rounds),
            "study": method.adapted(plan.study).fingerprint(),
        }
    found = {
        "repeats": plan.repeats,
        "rounds": plan.rounds,
        "seed": plan.seed,
        "study": plan.study.name,
        "missing": dataclasses.asdict(plan.missing) if plan.missing else None,
        "pooled": plan.pooled,
        "version": polyclinic.__version__,
        "sites": dict(_site(folder, plan.study.name) for folder in plan.sites),
        "methods": methods,
    }
    told: dict[str, Any] = json.loads(json.dumps(found))
    return told


def results_so_far(path: Path, settings: dict[str, Any]) -> Results:
    """The runs of a file that was made with these settings, those that failed too.

    It may hold other methods and repeats, which are kept. Without a file there are none yet, so
    that the same command can be given until it has ended.

    Raises:
        StudyError: a file of something else, or one made with other settings, sites or patients.
    """
    if not path.exists():
        return Results(path, settings)
    told = read_comparison(path)
    kept = told["settings"]
    others = _differing(kept, settings)
    if others:
        raise StudyError(
            expected="the settings that the runs of the file were made with",
            got=f"others of {', '.join(others)}",
            remedy="name another file with --json, or ask for what they were made with",
        )
    runs = {(s["method"], s["repeat"]): s["seconds"] for s in told["seconds"]}
    reasons = {(f["method"], f["repeat"]): f["reason"] for f in told.get("failed", ())}
    records: dict[Task, list[Record]] = {task: [] for task in runs}
    for record in told["records"]:
        records[(record["method"], record["repeat"])].append(record)
    both = settings | {
        "methods": kept["methods"] | settings["methods"],
        "repeats": max(kept["repeats"], settings["repeats"]),
    }
    every = {t: Run(*t, reason=reason) for t, reason in reasons.items()}
    every |= {t: Run(*t, tuple(records[t]), float(seconds)) for t, seconds in runs.items()}
    return Results(path, both, every, written=path.read_bytes())


def _differing(kept: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Names of settings, and of methods, that are not the same in both."""
    plain = [k for k in settings if k not in GROWS and kept.get(k) != settings[k]]
    shared = kept["methods"].keys() & settings["methods"].keys()
    return plain + sorted(m for m in shared if kept["methods"][m] != settings["methods"][m])


def _site(folder: Path, study: str) -> tuple[str, str]:
    """Name of a site, and a mark of its settings, its manifest and, by name, size and times, of
    all other files that it declares for the study."""
    settings = load_settings(folder / SETTINGS_FILE)
    source = settings.cohort(study)
    root, digest = Path(source.root), hashlib.sha256((folder / SETTINGS_FILE).read_bytes())
    with contextlib.suppress(OSError):  # opening the cohort refuses it, and says why
        digest.update((root / source.manifest).read_bytes())
    places = {p for m in source.modalities.values() for p in (m.table, m.folder, m.slides, m.files)}
    places |= {source.mask.folder, source.mask.files} if source.mask else set()
    # What a run itself writes is not its data.
    own = {Path(settings.storage), Path(settings.cache)}
    for place in sorted(root / p for p in {*places, *DEFAULTS} if p):
        for path in _files(place, own):
            with contextlib.suppress(OSError):
                known = path.stat()
                told = known.st_size, known.st_mtime_ns, known.st_ctime_ns
                digest.update(f"{path} {told}".encode(errors="surrogateescape"))
    return settings.site, digest.hexdigest()


def _files(place: Path, own: set[Path]) -> Iterator[Path]:
    """A file, or those below a folder, links followed, each folder once."""
    if not place.is_dir():
        yield place
        return
    seen: set[Path] = set()
    for folder, below, names in os.walk(place, followlinks=True):
        here = Path(folder).resolve()
        if here in seen or here in own:
            below.clear()
            continue
        seen.add(here)
        below.sort()
        yield from (Path(folder) / name for name in sorted(names))


def _described(half: object) -> dict[str, Any]:
    """Class and settings of one half of an algorithm."""
    fields = [f.name for f in dataclasses.fields(half) if f.init]  # type: ignore[arg-type]
    kind = type(half)
    path = f"{kind.__module__}.{kind.__qualname__}"
    return {"path": path, "args": {f: getattr(half, f) for f in fields}}
