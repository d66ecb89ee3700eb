"""One last line over several pytest runs, worded as pytest words it."""

import sys
from pathlib import Path
from xml.etree import ElementTree

COUNTS = ("failures", "errors", "skipped", "tests")


def summary(paths: list[Path]) -> str:
    """``== 812 passed, 3 skipped in 401.2s ==`` over JUnit files."""
    total = dict.fromkeys(COUNTS, 0)
    seconds = 0.0
    for path in paths:
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            for key in COUNTS:
                total[key] += int(suite.get(key, 0))
            seconds += float(suite.get("time", 0.0))
    passed = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
    parts = [
        f"{number} {word}"
        for number, word in (
            (total["failures"], "failed"),
            (passed, "passed"),
            (total["skipped"], "skipped"),
            (total["errors"], "errors"),
        )
        if number
    ]
    return f"== {', '.join(parts) or 'no tests ran'} in {seconds:.1f}s =="


if __name__ == "__main__":
    print(summary([Path(name) for name in sys.argv[1:]]))
