"""Values as the report writes them: for people, and harmless in a spreadsheet."""

import math
from datetime import UTC, datetime

NOTHING = "–"
# How the papers write the algorithms of this package.
ALGORITHMS = {
    "fedavg": "FedAvg by modality",
    "fedmepd": "FedMEPD",
    "fedmm": "FedMM",
    "local": "training alone",
    "multi_fedavg": "Multi-FedAvg",
}


def cell(value: object) -> str:
    """Text that a spreadsheet takes for text, when the table is pasted into one."""
    text = "".join(c if c.isprintable() else " " for c in str(value)).strip()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text or NOTHING


def score(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def moment(time: str) -> str:
    """``2026-03-01 14:05 UTC`` of a ledger's time, or the text as it is."""
    try:
        return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return cell(time)


def size(count: float) -> str:
    """Bytes in a unit that a person reads."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def algorithm(path: str) -> str:
    """``FedMM`` of ``polyclinic.algorithms.fedmm.Server``; else the module's name."""
    module = path.rpartition(".")[0].rpartition(".")[2]
    return ALGORITHMS.get(module, module or path)
