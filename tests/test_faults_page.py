"""docs/faults.md names tests that exist, for every scenario of this release."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "faults.md"
FAULTS = [f"F{n:02d}" for n in (*range(1, 9), *range(12, 20), *range(20, 25))]
OTHERS = [*(f"B{n:02d}" for n in range(1, 18)), "P11", "P12", "P13"]
RIGHTS = [f"A{n:02d}" for n in (*range(1, 8), 11, 13, 14)]


def test_every_scenario_has_a_line_and_every_test_in_it_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([A-Z]\d\d) (.*)$", page, re.MULTILINE))
    assert list(rows) == [*FAULTS, *OTHERS, *RIGHTS]
    for scenario, row in rows.items():
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named or "the same live test" in row, scenario
        for file, test in named:
            text = (TESTS / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{scenario}: {file}::{test}"
