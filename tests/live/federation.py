"""A provisioned federation on loopback: kits from provisioning/, real processes, real mutual TLS.

Processes are started by the kits' own scripts and ended by their own process ids.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import placing
import yaml
from loopback import enter_own_network, free_port, wait_for
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from processes import end_all, is_job, processes_below, quietly

__all__ = ["REPO", "SERVER", "SITES", "Federation", "enter_own_network", "wait_for"]

REPO = Path(__file__).resolve().parents[2]
ROLES = {
    "project_admin": "admin@coordination.example",
    "org_admin": "it@north.example",
    "lead": "lead@north.example",
    "member": "guest@west.example",
}
SITES = ("site-1", "site-2", "site-3")
SERVER = "coordinator"


class Federation:
    """One consortium in a folder of its own.

    Args:
        folder: short path; FLARE and multiprocessing put sockets below it.
        module_path: folder that its processes find test modules in, such as fault injectors, and
            in the one above it; their names must then be in ``allow_classes`` of ``changes``.
        changes: laid over provisioning/consortium.yaml before the kits are made.
    """

    def __init__(self, folder: Path, module_path: Path | None = None, **changes: Any) -> None:
        self.folder = folder
        self.module_path = module_path
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.seconds: dict[str, float] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: dict[str, Session] = {}
        with self._timed("provision"):
            self.kits = self._provision(changes)
        for site in self.sites:
            placing.place_empty_cohort(self.kit(site), folder / "data" / site)

    def _provision(self, changes: dict[str, Any]) -> Path:
        description = yaml.safe_load((REPO / "provisioning" / "consortium.yaml").read_text())
        self._port = free_port()
        description["server"] |= {"port": self._port, "lost_after_seconds": 30}
        path = self.folder / "consortium.yaml"
        description |= changes
        self.sites = tuple(h["name"] for h in description["hospitals"])
        path.write_text(yaml.safe_dump(description))
        script = str(REPO / "provisioning" / "make_kits.sh")
        done = self.run([script, str(path), str(self.folder), "--format", "json"])
        assert done.returncode == 0, done.stdout + done.stderr
        return Path(json.loads(done.stdout)["data"]["kits"])

    def kit(self, name: str) -> Path:
        """The startup kit of a site, of the server or of a role."""
        return self.kits / ROLES.get(name, name)

    def install_data(self, consortium: Path) -> None:
        """What each data manager does: point ``local/polyclinic.yaml`` at the hospital's data.

        Args:
            consortium: folder with one folder per site, as ``polyclinic data generate`` and
                poc/cohorts.py make them.
        """
        for site in self.sites:
            placing.install_data(self.kit(site), consortium / site)

    @property
    def environment(self) -> dict[str, str]:
        """What every process of this federation is started with."""
        venv = str(Path(sys.executable).parent)
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TMPDIR")}
        if self.module_path:
            kept["PYTHONPATH"] = f"{self.module_path}{os.pathsep}{self.module_path.parent}"
        return kept | {"HOME": str(self.home), "PATH": f"{venv}:{os.environ['PATH']}"}

    def run(self, command: list[str], seconds: int = 60) -> subprocess.CompletedProcess[str]:
        """One command of this federation's people, in its environment."""
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *names: str) -> None:
        """Start the server and all sites, or the ones named, by their own scripts."""
        for name in names or (SERVER, *self.sites):
            self._spawn(name, ["bash", str(self.kit(name) / "startup" / "sub_start.sh"), "--once"])

    def start_ungated_server(self) -> None:
        """Start the server as somebody would who owns its machine: past the doctor."""
        module = "nvflare.private.fed.app.server.server_train"
        line = [sys.executable, "-u", "-m", module, "-m", str(self.kit(SERVER))]
        line += ["-s", "fed_server.json", "--set", "secure_train=true", "org=coordination"]
        self._spawn(SERVER, [*line, "config_folder=config"])

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.kit(name) / "console.log").open("ab") as console:
            self._processes[name] = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.kit(name),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def ready(self, seconds: float = 60) -> None:
        """Wait until the server answers and every site is registered."""
        wait_for(lambda: self._listens(), seconds, "the server to listen")
        wait_for(lambda: len(self.connected()) >= len(self.sites), seconds, "every site")

    def connected(self) -> list[str]:
        """Names of the sites the server counts as connected."""
        info = self.session("project_admin").get_system_info()
        return sorted(client.name for client in info.client_info)

    def kill(self, name: str, part: Literal["parent", "job", "all"] = "all") -> list[int]:
        """Process ids that were ended with SIGKILL."""
        pids = [p for p in self.pids(name) if part == "all" or is_job(p) == (part == "job")]
        if part == "job":
            assert pids, f"{name} runs no job process"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if part != "job" and name in self._processes:
            self._processes[name].wait(10)
        return pids

    restart = start

    def mended(self) -> "Federation":
        """Itself, with whatever was killed started again and every site connected."""
        if dead := [n for n in (SERVER, *self.sites) if not self.pids(n)]:
            self.restart(*dead)
        if SERVER in dead:
            self.forget_sessions()
        self.ready()
        return self

    def pids(self, name: str) -> list[int]:
        """All live processes of a participant: parent, job processes and their children."""
        return processes_below(self.kit(name))

    def stop(self) -> None:
        """End every process of this federation."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        end_all(self.kits)
        for process in self._processes.values():
            process.wait(10)
        self._processes.clear()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def session(self, role: str = "lead") -> Session:
        """A logged-in session of the Python admin API."""
        if role not in self._sessions:
            user = ROLES[role]
            self._sessions[role] = new_secure_session(user, str(self.kits / user), timeout=20)
        return self._sessions[role]

    def forget_sessions(self) -> None:
        """Drop sessions, as after the server was killed."""
        for session in self._sessions.values():
            quietly(session.close)
        self._sessions.clear()

    def submit(self, job: Path, role: str = "lead") -> str:
        """The id of a job submitted through the Python admin API."""
        job_id: str = self.session(role).submit_job(str(job))
        return job_id

    def nvflare(self, *arguments: str, role: str = "lead", seconds: int = 120) -> dict[str, Any]:
        """The JSON answer of an ``nvflare`` command, with ``exit_code`` and ``stderr`` added."""
        kit = ["--startup-kit", str(self.kit(role))]
        done = self.run(["nvflare", "--format", "json", *arguments, *kit], seconds)
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        return answer | {"exit_code": done.returncode, "stderr": done.stderr}

    def status(self, job_id: str) -> str:
        """FLARE's word for the state of a job, such as ``FINISHED:COMPLETED``."""
        return str(self.meta(job_id).get("status", ""))

    def meta(self, job_id: str) -> dict[str, Any]:
        """The job's meta at the server."""
        meta: dict[str, Any] = self.session().get_job_meta(job_id)
        return meta

    def wait(self, job_id: str, seconds: float = 120) -> str:
        """The final status of a job."""
        return wait_for(
            lambda: s if (s := self.status(job_id)).startswith("FINISHED") else "",
            seconds,
            f"job {job_id} to end",
        )

    def download(self, job_id: str) -> Path:
        """The folder the lead downloaded a job's result to."""
        return Path(self.session().download_job_result(job_id))

    def log(self, name: str, job_id: str = "") -> str:
        """A participant's log, or that of its job process."""
        path = self.kit(name) / job_id / "log.txt" if job_id else self.kit(name) / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[what] = round(time.monotonic() - started, 2)

    def bring_up(self) -> "Federation":
        """Start everything and log in, noting how long it took."""
        with self._timed("start"):
            self.start()
            wait_for(self._listens, 60, "the server to listen")
        with self._timed("login"):
            self.session("project_admin")
        with self._timed("sites"):
            self.ready()
        return self

    def tear_down(self) -> None:
        """Stop and remove; the folder is kept when POLYCLINIC_KEEP names a folder for it."""
        with self._timed("stop"):
            self.stop()
        if keep := os.environ.get("POLYCLINIC_KEEP"):
            shutil.copytree(self.folder, Path(keep) / self.folder.name, symlinks=True)
        shutil.rmtree(self.folder, ignore_errors=True)
