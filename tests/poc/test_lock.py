"""One demo at a time in a workspace, and none kept out by a demo that is dead."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

POC = Path(__file__).parents[2] / "poc"
HOLDER = """
import sys
from pathlib import Path
import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(monkeypatch):
    monkeypatch.syspath_prepend(str(POC))
    sys.modules.pop("lock", None)
    import lock

    return lock


@pytest.fixture
def holder(tmp_path):
    """Another process that holds ``demo``."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "demo")],
        env=os.environ | {"PYTHONPATH": str(POC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_demo_is_told_who_holds_the_workspace(lock, holder, tmp_path):
    wanted = (
        f"Expected no other demo in demo, got one running (pid {holder.pid}); "
        "wait, or set POLYCLINIC_POC_WORKSPACE (you)."
    )
    with pytest.raises(lock.StudyError) as told, lock.held(tmp_path / "demo"):
        pass
    assert str(told.value) == wanted


def test_the_command_ends_with_4_and_leaves_the_other_demo_alone(holder, tmp_path):
    (tmp_path / "demo" / "consortium").mkdir()
    done = subprocess.run(
        [sys.executable, str(POC / "steps.py"), "clean"],
        env=os.environ | {"POLYCLINIC_POC_WORKSPACE": str(tmp_path / "demo")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert f"pid {holder.pid}" in " ".join(done.stderr.split())
    assert (tmp_path / "demo" / "consortium").is_dir()


def test_the_lock_of_a_killed_demo_is_stale(lock, holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "demo" / lock.NAME).read_text() == f"{holder.pid}\n"
    with lock.held(tmp_path / "demo"):
        assert (tmp_path / "demo" / lock.NAME).read_text() == f"{os.getpid()}\n"


def test_nothing_stays_of_an_empty_workspace_and_everything_of_a_full_one(lock, tmp_path):
    with lock.held(tmp_path / "demo"):
        pass
    assert not (tmp_path / "demo").exists()
    with lock.held(tmp_path / "demo"):
        (tmp_path / "demo" / "report.html").write_text("page")
    assert [p.name for p in (tmp_path / "demo").iterdir()] == ["report.html"]


def test_a_job_is_not_submitted_where_nothing_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, str(POC / "steps.py"), "submit"],
        env=os.environ | {"POLYCLINIC_POC_WORKSPACE": str(tmp_path / "demo")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "run './poc/run.sh up' first" in " ".join(done.stderr.split())
