"""The environment: made once, by one process at a time, and Ctrl-C ends with 130.

The interpreter here is a script: its ``venv`` copies itself, its ``pip install`` writes a line and
takes as many tenths of a second as the test says.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "poc" / "environment.sh"
PYTHON = """#!/usr/bin/env bash
case "$1 ${{2:-}}" in
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip")
    [[ "$3" == --version ]] && exit 0
    echo install >>"{log}"
    trap 'exit 2' INT  # pip ends like this
    for ((i = 0; i < $(cat "{log}.tenths"); i++)); do sleep 0.1; done ;;
  *) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def ensure(tmp_path):
    """Starts ``ensure_environment``, whose installation takes the given tenths of a second."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "requirements.txt").write_text("nothing==1\n")
    log = tmp_path / "log"
    log.touch()

    def start(tenths):
        (tmp_path / "log.tenths").write_text(str(tenths))
        fake = tmp_path / "python"
        fake.write_text(PYTHON.format(log=log, python=sys.executable))
        fake.chmod(0o755)
        command = f'set -euo pipefail; source "{SCRIPT}"; ensure_environment "{root}"; echo made'
        return subprocess.Popen(
            ["bash", "-c", command],
            env=os.environ | {"POLYCLINIC_PYTHON": str(fake)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    start.log = log
    start.root = root
    return start


def test_two_at_once_install_once(ensure):
    both = [ensure(10), ensure(10)]
    assert [p.communicate(timeout=20)[0] for p in both] == ["made\n", "made\n"]
    assert ensure.log.read_text() == "install\n"


def test_a_second_time_nothing_is_installed(ensure):
    for _ in range(2):
        assert ensure(0).communicate(timeout=20)[0] == "made\n"
    assert ensure.log.read_text() == "install\n"


def test_changed_requirements_are_installed(ensure):
    ensure(0).communicate(timeout=20)
    (ensure.root / "requirements.txt").write_text("nothing==2\n")
    ensure(0).communicate(timeout=20)
    assert ensure.log.read_text() == "install\n" * 2


def test_ctrl_c_while_installing_ends_with_130_and_the_next_time_installs_again(ensure):
    first = ensure(200)
    until = time.monotonic() + 15
    while not ensure.log.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal sends it
    out, _ = first.communicate(timeout=10)
    assert (first.returncode, out) == (130, "")
    assert ensure(0).communicate(timeout=20)[0] == "made\n"
    assert ensure.log.read_text() == "install\n" * 2
