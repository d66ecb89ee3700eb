"""Kits that somebody changed, and what the doctor then says."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from polyclinic.flare.doctor import examine

Kits = Callable[[str], Path]
Spoil = Callable[[Path], object]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def settings(kit: Path, **changes: object) -> None:
    path = kit / "local" / "polyclinic.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def failures(kit: Path, now: datetime | None = None) -> dict[str, str]:
    """Sentence by check, for the checks that failed; the manifest left aside."""
    found = examine(kit, now).findings
    return {
        f.check: f.sentence() for f in found if f.status == "fail" and f.check != "signed-manifest"
    }
