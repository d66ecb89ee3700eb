"""What every test shares."""

import os
from pathlib import Path

import pytest
import torch

from polyclinic.data.generator import generate_consortium

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the development data sets, beside the repository; absent for most people."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development data sets do not lie beside the repository")
    return folder


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the generated consortium: site-1, site-2, site-3, study.json and panels.json."""
    folder = tmp_path_factory.mktemp("consortium")
    generate_consortium(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One torch thread: tests share a small machine, and sums keep one order."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # for processes that tests start
    torch.set_num_threads(1)
