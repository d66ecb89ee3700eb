"""Silence around libraries that tell too much."""

import logging
import warnings

import pytest

from polyclinic.data.quiet import LOGGERS, quiet


@pytest.mark.parametrize("name", LOGGERS)
def test_a_library_says_nothing_inside_and_its_level_comes_back(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger(name)
    level = logger.level
    with quiet():
        logging.getLogger(f"{name}.deep").critical("inside")
        warnings.warn("inside", UserWarning, stacklevel=1)
    logger.critical("outside")
    assert [record.message for record in caplog.records] == ["outside"]
    assert logger.level == level


def test_settings_come_back_after_an_error() -> None:
    level = logging.getLogger("pydicom").level
    with pytest.raises(ValueError, match="x"), quiet():
        raise ValueError("x")
    assert logging.getLogger("pydicom").level == level
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
