"""What the POC can show: a generated consortium, a job on it, and what it is compared with."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from polyclinic.data.generated.five import SLIDES, TRUNK, generate_five_kinds
from polyclinic.data.generated.tumours import generate_tumour_consortium
from startup import SITES

JOBS = Path(__file__).resolve().parents[1] / "jobs"
POLYCLINIC = [sys.executable, "-m", "polyclinic.cli.main"]
# Beside the consortium: which demo its files are of.
CHOICE = "demo"


@dataclass(frozen=True)
class Demo:
    """One of them.

    Attributes:
        generate: writes the hospitals' folders below a place.
        methods: of ``polyclinic compare``.
    """

    title: str
    generate: Callable[[Path], None]
    job: Path
    methods: str
    options: tuple[str, ...] = ()


def five_kinds(place: Path) -> None:
    """Three hospitals with files of all five kinds, and features of their slides."""
    for site in generate_five_kinds(place):
        if (site / SLIDES).is_dir():
            words = ["data", "import", "slides", str(site / SLIDES), str(site)]
            words += ["--weights", TRUNK, "--keep-names"]
            subprocess.run([*POLYCLINIC, *words], check=True, stdin=subprocess.DEVNULL)


def tumours(place: Path) -> None:
    """Scans with masks; of the four hospitals those that the POC has a kit for."""
    for site in generate_tumour_consortium(place):
        if site.name not in SITES:
            shutil.rmtree(site)


DEMOS = {
    "five_kinds": Demo(
        "three generated hospitals with five kinds of data",
        five_kinds,
        JOBS / "fedmm_plus_five_kinds",
        "local,fedmm_plus",
    ),
    "tumours": Demo(
        "three generated hospitals with scans of tumours",
        tumours,
        JOBS / "fedmepd_demo",
        "scan_local",
        # The job's own settings: what the page compares is what FLARE trained.
        ("--no-pooled", "--job", str(JOBS / "fedmepd_demo")),
    ),
}
