"""Memory that reading one file takes, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import resource, sys
from pathlib import Path
from polyclinic.errors import DataRejected
{imports}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
try:
    read(Path(sys.argv[1]))
    said = "read"
except DataRejected as refused:
    said = refused.reason
print(said, peak() - before)
"""


def growth_mib(imports: str, path: Path) -> tuple[str, float]:
    """What ``read`` of the imports said to a file, and by how many MiB the peak of memory grew."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(imports=imports), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said, growth = done.stdout.split()
    return said, float(growth)
