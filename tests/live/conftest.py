"""Fixtures that start a real federation: provisioned kits, own processes, mutual TLS, loopback.

* ``federation``       one for the session: server, three hospitals; submit jobs, do not kill.
* ``workshop``         the same, with the test classes of faults.py and rogue.py allowed; do not
                       kill.
* ``battered``         one for a module: kill, and ask it to be mended.
* ``stepping``         one for a module, with the test classes of stepper.py allowed; kill.
* ``fresh_federation`` a factory for tests that kill, tamper or provision otherwise.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# importlib mode puts no test folder on the path.
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from federation import Federation, enter_own_network  # noqa: E402
from rogue import MODULES  # noqa: E402
from stepper import MODULES as STEPPING  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def _network() -> None:
    enter_own_network()


@contextmanager
def _running(consortium: Path | None, *args: Any, **changes: Any) -> Iterator[Federation]:
    made = Federation(Path(tempfile.mkdtemp(prefix="pc-")), *args, **changes)
    if consortium:
        made.install_data(consortium)
    try:
        yield made.bring_up()
    finally:
        made.tear_down()


@pytest.fixture(scope="session")
def federation(_network: None, consortium: Path) -> Iterator[Federation]:
    """A running federation of three hospitals that hold the generated consortium's data."""
    with _running(consortium) as made:
        yield made


@pytest.fixture(scope="module")
def battered(_network: None, consortium: Path) -> Iterator[Federation]:
    """The same, of one module's own: kill what you like, and let ``mended`` be called first."""
    with _running(consortium) as made:
        yield made


@pytest.fixture(scope="session")
def workshop(_network: None) -> Iterator[Federation]:
    """A running federation whose jobs may name the classes of faults.py and rogue.py."""
    with _running(None, HERE, allow_classes=["faults.", *MODULES]) as made:
        yield made


@pytest.fixture(scope="module")
def stepping(_network: None) -> Iterator[Federation]:
    """One of a module's own whose jobs may name the classes of stepper.py: kill what you like."""
    with _running(None, HERE, allow_classes=list(STEPPING)) as made:
        yield made


@pytest.fixture
def fresh_federation(_network: None) -> Iterator[Callable[..., Federation]]:
    """Make a federation of one's own; it is provisioned, not started."""
    made: list[Federation] = []

    def make(module_path: Path | None = None, **changes: Any) -> Federation:
        folder = Path(tempfile.mkdtemp(prefix="pc-"))
        try:
            made.append(Federation(folder, module_path, **changes))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return made[-1]

    yield make
    for one in made:
        one.tear_down()
