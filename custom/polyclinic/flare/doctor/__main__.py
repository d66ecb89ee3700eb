"""The start gate: ``python -m polyclinic.flare.doctor KIT`` ends with 1 for an unfit kit.

Kept apart from the command line, so that a start needs neither typer nor rich.
"""

import sys
from pathlib import Path

from polyclinic.errors import PolyclinicError
from polyclinic.flare.doctor import examine


def main(folder: str, *options: str) -> int:
    """0 when the kit may start, 1 when a check failed, 4 when the folder is not a kit.

    Args:
        options: ``--no-warnings`` says only what keeps the kit from starting.
    """
    said = ("fail",) if "--no-warnings" in options else ("fail", "warn")
    try:
        report = examine(Path(folder))
    except PolyclinicError as error:
        print(error, file=sys.stderr)
        return 4
    for finding in report.findings:
        if finding.status in said:
            word = "refused" if finding.status == "fail" else "warning"
            print(f"{word}: {finding.check}: {finding.sentence()}", file=sys.stderr)
    if not report.passed:
        print(f"{report.role} '{report.kit}' does not start.", file=sys.stderr)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["."]))
