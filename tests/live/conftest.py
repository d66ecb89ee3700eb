"""Fixtures that start a real federation: provisioned kits, own processes, mutual TLS, loopback.

* ``federation``       one for the session: server, three hospitals; submit jobs, do not kill.
* ``fresh_federation`` a factory for tests that kill, tamper or provision otherwise.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# importlib mode puts no test folder on the path.
sys.path.insert(0, str(Path(__file__).parent))

from federation import Federation, enter_own_network


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def _network() -> None:
    enter_own_network()


@pytest.fixture(scope="session")
def federation(_network: None) -> Iterator[Federation]:
    """A running federation with three connected hospitals."""
    made = Federation(Path(tempfile.mkdtemp(prefix="pc-")))
    try:
        yield made.bring_up()
    finally:
        made.tear_down()


@pytest.fixture
def fresh_federation(_network: None) -> Iterator[Callable[..., Federation]]:
    """Make a federation of one's own; it is provisioned, not started."""
    made: list[Federation] = []

    def make(**changes: Any) -> Federation:
        folder = Path(tempfile.mkdtemp(prefix="pc-"))
        try:
            made.append(Federation(folder, **changes))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return made[-1]

    yield make
    for one in made:
        one.tear_down()
