"""The training process with the test's client halves among the algorithms."""

from pathlib import Path

import polyclinic.algorithms

polyclinic.algorithms.__path__.append(str(Path(__file__).with_name("plugins")))

from polyclinic.worker.__main__ import main  # noqa: E402

if __name__ == "__main__":
    main(ahead=())  # no test trains with torch
