"""``polyclinic compare`` as tests give it."""

from pathlib import Path

from polyclinic.cli.main import run


def compare(consortium: Path, out: Path, *more: str, methods: str = "local,fedmm") -> int:
    sites = [str(consortium / s) for s in ("site-1", "site-2", "site-3")]
    numbers = ["--methods", methods, "--repeats", "1", "--rounds", "1", "--seed", "3"]
    return run(["compare", "--sites", *sites, *numbers, "--json", str(out), *more])
