"""A provisioned federation on loopback: kits from provisioning/, real processes, real mutual TLS.

Processes are started by the kits' own scripts and ended by their own process ids.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

REPO = Path(__file__).resolve().parents[2]
ROLES = {
    "project_admin": "admin@coordination.example",
    "org_admin": "it@north.example",
    "lead": "lead@north.example",
    "member": "guest@west.example",
}
SITES = ("site-1", "site-2", "site-3")
SERVER = "coordinator"
_NEW_NETWORK = 0x40000000


def enter_own_network() -> bool:
    """True when this process, and all it starts from now on, see a loopback of their own.

    Needs root; elsewhere the tests share the machine's loopback with free ports.
    """
    if os.environ.get("POLYCLINIC_OWN_NETWORK") == str(os.getpid()):
        return True
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ["POLYCLINIC_OWN_NETWORK"] = str(os.getpid())
    return True


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Federation:
    """One consortium in a folder of its own.

    Args:
        folder: short path; FLARE and multiprocessing put sockets below it.
        module_path: folder that its processes find test modules in, such as fault injectors;
            their names must then be in ``allow_classes`` of ``changes``.
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
        for site in SITES:
            self._place_empty_cohort(site)

    # -- kits -----------------------------------------------------------------------------------

    def _provision(self, changes: dict[str, Any]) -> Path:
        description = yaml.safe_load((REPO / "provisioning" / "consortium.yaml").read_text())
        description["server"] |= {"port": free_port(), "lost_after_seconds": 20}
        path = self.folder / "consortium.yaml"
        path.write_text(yaml.safe_dump(description | changes))
        done = self.run([str(REPO / "provisioning" / "make_kits.sh"), str(path), str(self.folder)])
        assert done.returncode == 0, done.stderr
        return Path(json.loads(done.stdout)["kits"])

    def kit(self, name: str) -> Path:
        """The startup kit of a site, of the server or of a role."""
        return self.kits / ROLES.get(name, name)

    def _place_empty_cohort(self, site: str) -> None:
        """A folder and a manifest without patients: enough for a site to start."""
        root = self.folder / "data" / site
        root.mkdir(parents=True)
        (root / "manifest.csv").write_text("patient_id,label\n")
        path = self.kit(site) / "local" / "polyclinic.yaml"
        settings = yaml.safe_load(path.read_text())
        for cohort in settings["cohorts"].values():
            cohort["root"] = str(root)
        path.write_text(yaml.safe_dump(settings))

    def install_data(self, consortium: Path) -> None:
        """What each data manager does: point ``local/polyclinic.yaml`` at the hospital's data.

        Args:
            consortium: folder made by ``polyclinic data generate``, one folder per site.
        """
        for site in SITES:
            settings = yaml.safe_load((consortium / site / "polyclinic.yaml").read_text())
            for cohort in settings["cohorts"].values():
                cohort["root"] = str((consortium / site / cohort.get("root", ".")).resolve())
            kept = yaml.safe_load((self.kit(site) / "local" / "polyclinic.yaml").read_text())
            own = {k: kept[k] for k in ("site", "storage", "minimum_sites")}
            merged = settings | own
            (self.kit(site) / "local" / "polyclinic.yaml").write_text(yaml.safe_dump(merged))

    # -- processes ------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What every process of this federation is started with."""
        venv = str(Path(sys.executable).parent)
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TMPDIR")}
        if self.module_path:
            kept["PYTHONPATH"] = str(self.module_path)
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
        for name in names or (SERVER, *SITES):
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

    def ready(self, sites: int = len(SITES), seconds: float = 60) -> None:
        """Wait until the server answers and that many sites are registered."""
        wait_for(lambda: self._listens(), seconds, "the server to listen")
        wait_for(lambda: len(self.connected()) >= sites, seconds, f"{sites} sites")

    def connected(self) -> list[str]:
        """Names of the sites the server counts as connected."""
        info = self.session("project_admin").get_system_info()
        return sorted(client.name for client in info.client_info)

    def kill(self, name: str, part: Literal["parent", "job", "all"] = "all") -> list[int]:
        """Process ids that were ended with SIGKILL."""
        pids = [p for p in self.pids(name) if part == "all" or self._is_job(p) == (part == "job")]
        if part == "job":
            assert pids, f"{name} runs no job process"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if part != "job" and name in self._processes:
            self._processes[name].wait(10)
        return pids

    def restart(self, name: str) -> None:
        """Start a killed participant again."""
        self.start(name)

    def pids(self, name: str) -> list[int]:
        """All live processes of a participant: parent, job processes and their children."""
        kit = str(self.kit(name))
        found: dict[int, None] = {}
        for process in psutil.process_iter():
            try:
                if any(kit in part for part in process.cmdline()) and _lives(process):
                    found[process.pid] = None
                    found |= {c.pid: None for c in process.children(recursive=True) if _lives(c)}
            except psutil.Error:
                continue
        return list(found)

    @staticmethod
    def _is_job(pid: int) -> bool:
        try:
            line = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            return False
        return "worker_process" in line or "runner_process" in line or "polyclinic.worker" in line

    def stop(self) -> None:
        """End every process of this federation."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        for name in (*SITES, SERVER):
            for pid in self.pids(name):
                _quietly(lambda pid=pid: os.kill(pid, signal.SIGTERM))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(self.pids(n) for n in (*SITES, SERVER)):
            time.sleep(0.1)
        for name in (*SITES, SERVER):
            for pid in self.pids(name):
                _quietly(lambda pid=pid: os.kill(pid, signal.SIGKILL))
        for process in self._processes.values():
            process.wait(10)
        self._processes.clear()

    def _listens(self) -> bool:
        port = json.loads((self.kit("lead") / "startup" / "fed_admin.json").read_text())
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", port["admin"]["port"])) == 0

    # -- jobs -----------------------------------------------------------------------------------

    def session(self, role: str = "lead") -> Session:
        """A logged-in session of the Python admin API."""
        if role not in self._sessions:
            user = ROLES[role]
            self._sessions[role] = new_secure_session(user, str(self.kits / user), timeout=20)
        return self._sessions[role]

    def forget_sessions(self) -> None:
        """Drop sessions, as after the server was killed."""
        for session in self._sessions.values():
            _quietly(session.close)
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

    # -- what is left on disk -------------------------------------------------------------------

    def log(self, name: str, job_id: str = "") -> str:
        """A participant's log, or that of its job process."""
        path = self.kit(name) / job_id / "log.txt" if job_id else self.kit(name) / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def console(self, name: str) -> str:
        """What a participant's processes printed."""
        return (self.kit(name) / "console.log").read_text(errors="replace")

    def wait_log(self, name: str, text: str, job_id: str = "", seconds: float = 60) -> None:
        """Wait until a line with ``text`` stands in the log of that very job."""
        wait_for(lambda: text in self.log(name, job_id), seconds, f"'{text}' in {name}'s log")

    def run_folder(self, name: str, job_id: str) -> Path:
        """A participant's run folder of a job."""
        return self.kit(name) / job_id

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


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of ``condition``; an AssertionError that names ``what`` otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.25)


def _lives(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE


def _quietly(act: Callable[[], Any]) -> None:
    # The process or the server may be gone, which is the aim.
    with contextlib.suppress(Exception):
        act()
