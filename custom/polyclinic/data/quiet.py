"""Libraries that log or warn with the text of tags are silent while they read."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Loggers of pydicom, Pillow and tifffile: they write values of tags or names of files.
LOGGERS = ("pydicom", "PIL", "tifffile")
_SILENT = logging.CRITICAL + 1
# Warning filters and logger levels belong to the process: one reader at a time changes them.
_LOCK = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which none of these libraries says anything; the settings come back after."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loggers = [logging.getLogger(name) for name in LOGGERS]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(_SILENT)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
