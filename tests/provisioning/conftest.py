"""Kits made once, copied for every test that spoils one."""

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
# provisioning/ holds scripts, not a package.
sys.path[:0] = [str(REPO / "provisioning"), str(Path(__file__).parent)]

from consortium import Consortium, load_consortium  # noqa: E402
from kits import make_kits  # noqa: E402


@pytest.fixture(scope="session")
def description() -> Consortium:
    """The consortium that the repository describes, on a port that is free here."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    told = load_consortium(REPO / "provisioning" / "consortium.yaml")
    return told.model_copy(update={"server": told.server.model_copy(update={"port": port})})


@pytest.fixture(scope="session")
def made(description: Consortium, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the kits; read only, copy a kit with ``kit`` to change it."""
    return make_kits(description, tmp_path_factory.mktemp("kits"))


@pytest.fixture
def kit(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a participant's kit; a site's with its cohort in place, so that it may start."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(made / name, folder)
        settings = folder / "local" / "polyclinic.yaml"
        if name.startswith("site-"):
            content = yaml.safe_load(settings.read_text())
            root = tmp_path / "cohort"
            root.mkdir(exist_ok=True)
            (root / "manifest.csv").write_text("patient_id,label\n")
            (root / "wsi").mkdir(exist_ok=True)
            for table in ("cnv.parquet", "metadata.parquet"):
                (root / table).touch()
            content["cohorts"]["demo"]["root"] = str(root)
            settings.write_text(yaml.safe_dump(content))
        return folder

    return copy
