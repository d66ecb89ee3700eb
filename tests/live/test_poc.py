"""The demo as a newcomer runs it, and what it leaves behind when it is interrupted."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = ["bash", str(REPOSITORY / "poc" / "run.sh")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("_network"),
]


def environment(workspace: Path) -> dict[str, str]:
    return os.environ | {"POLYCLINIC_POC_WORKSPACE": str(workspace)}


def processes_of(workspace: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(f"{workspace}{os.sep}" in part for part in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def test_one_command_leads_to_a_report_and_leaves_nothing_running(tmp_path):
    workspace = tmp_path / "w"
    done = subprocess.run(
        RUN,
        env=environment(workspace),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round   7 of 7   3 sites heard" in done.stdout
    assert "test AUROC" in done.stdout
    page = (workspace / "report.html").read_text(encoding="utf-8")
    assert "<h1>five_kinds</h1>" in page
    assert "completed" in page
    assert processes_of(workspace) == []
    assert not (workspace / "poc").exists()


def test_an_interrupt_stops_what_was_started(tmp_path):
    workspace = tmp_path / "w"
    running = subprocess.Popen(
        RUN,
        env=environment(workspace),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not processes_of(workspace / "poc"):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.2)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal sends Ctrl-C to the whole group
    assert running.wait(60) == 130
    assert processes_of(workspace) == []
    assert not (workspace / "poc").exists()
