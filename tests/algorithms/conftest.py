"""What tests of algorithms share."""

import pytest

from scan_federation import Recorded, recorded, the_sites


@pytest.fixture(scope="session")
def whole() -> Recorded:
    """FedMEPD with everything in it; nobody may change it."""
    return recorded(the_sites())
