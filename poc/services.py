"""``nvflare poc`` in a workspace of its own: kits with our policy, on loopback, stopped by pid.

The kits are FLARE's own POC kits. What provisioning writes for a hospital is written here too
(class allow-list, egress filter, ban on job filters, no code in jobs), so that the demo job runs
under the rules of a real site. Not in POC kits: signatures and the start gate of the doctor.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from startup import LEAD, PROJECT, SITES, harden_server, harden_site, project_of


class PocError(Exception):
    """A step of the POC did not work; the sentence says what to look at."""


class Services:
    """Server and three sites under one folder.

    Args:
        workspace: everything lies below it; nothing outside is written.
    """

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.home = workspace / "home"
        self.root = workspace / "poc"
        self.consortium = workspace / "consortium"
        self.kits = self.root / PROJECT / "prod_00"
        self._log = workspace / "poc.log"

    # -- kits -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Kits for a server and three sites, with each hospital's settings and the policy."""
        if not (self.consortium / "study.json").exists():
            raise PocError("there are no hospitals yet; run './poc/run.sh data' first")
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)
        self.home.mkdir(parents=True, exist_ok=True)
        project = self.workspace / "project.yml"
        project.write_text(yaml.safe_dump(project_of(_free_port()), sort_keys=False))
        self._nvflare("poc", "prepare", "-i", str(project), "--force", kit=False)
        self.lay_policy()

    def lay_policy(self) -> None:
        """Turn FLARE's kits into those of a hospital under our policy."""
        harden_server(self.kits / "server")
        for site in SITES:
            harden_site(self.kits / site, self.consortium / site)

    # -- processes ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start server and sites and wait until all sites are registered."""
        self._nvflare("poc", "start", "--timeout", "180", kit=False, seconds=240)

    def stop(self) -> None:
        """End every process that runs from this workspace, parents first, by process id."""
        for end in (psutil.Process.terminate, psutil.Process.kill):
            running = self._processes()
            for process in running:
                _quietly(end, process)
            psutil.wait_procs(running, timeout=6)

    def _processes(self) -> list[psutil.Process]:
        """Processes started from a kit here, and their children; never this one."""
        mark, found = f"{self.root}{os.sep}", {}
        for process in psutil.process_iter(["cmdline"]):
            if any(mark in part for part in process.info["cmdline"] or ()):
                found[process.pid] = process
                try:
                    found |= {c.pid: c for c in process.children(recursive=True)}
                except psutil.NoSuchProcess:
                    continue
        found.pop(os.getpid(), None)
        return list(found.values())

    # -- jobs -----------------------------------------------------------------------------------

    def submit(self, job: Path) -> str:
        """The id of the submitted job."""
        if not self._processes():
            raise PocError("no server is running; run './poc/run.sh up' first")
        answer = self._nvflare("job", "submit", "-j", str(job))
        job_id = str(answer.get("job_id", ""))
        if not job_id:
            raise PocError(f"the server gave no job id; see {self._log}")
        (self.workspace / "job_id").write_text(job_id)
        return job_id

    @property
    def job_id(self) -> str:
        """The job that was submitted last."""
        path = self.workspace / "job_id"
        if not path.exists():
            raise PocError("no job was submitted yet; run './poc/run.sh submit' first")
        return path.read_text().strip()

    @property
    def ledger(self) -> Path:
        """The server's ledger of that job's run."""
        return self.kits / "server" / "storage" / "runs" / self.job_id / "ledger.jsonl"

    def status(self) -> str:
        """FLARE's word for the state of that job."""
        job_id = self.job_id
        if not self._processes():
            raise PocError("the server is gone; run './poc/run.sh up', then submit again")
        return str(self._nvflare("job", "meta", job_id).get("status", ""))

    def _wait_finished(self, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not (status := self.status()).startswith("FINISHED"):
            if time.monotonic() > deadline:
                raise PocError(f"the job is still {status or 'unknown'} after {seconds:.0f} s")
            time.sleep(0.5)

    def download(self) -> Path:
        """The folder of that job's result; FLARE stores it some seconds after the run's end."""
        self._wait_finished()
        result = self.workspace / "result"
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        self._nvflare("job", "download", self.job_id, "-o", str(result))
        return result

    # -- commands -------------------------------------------------------------------------------

    def _nvflare(self, *words: str, kit: bool = True, seconds: int = 90) -> dict[str, Any]:
        """The data of an ``nvflare`` command's JSON answer.

        Raises:
            PocError: it failed or took too long; what it printed is in poc.log.
        """
        command = [str(Path(sys.executable).parent / "nvflare"), "--format", "json", *words]
        if kit:
            command += ["--startup-kit", str(self.kits / LEAD)]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
            "HOME": str(self.home),
            "NVFLARE_POC_WORKSPACE": str(self.root),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        started = time.monotonic()
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ nvflare {' '.join(words)}\n")
            log.flush()
            try:
                # To a file, not a pipe: the services that `poc start` leaves running inherit it.
                with (self.workspace / "answer.json").open("w+", encoding="utf-8") as answer:
                    done = subprocess.run(
                        command,
                        env=environment,
                        cwd=self.workspace,
                        stdin=subprocess.DEVNULL,
                        stdout=answer,
                        stderr=log,
                        timeout=seconds,
                    )
                    answer.seek(0)
                    text = answer.read()
            except subprocess.TimeoutExpired:
                raise PocError(f"'nvflare {words[0]} {words[1]}' took over {seconds} s") from None
            finally:
                (self.workspace / "answer.json").unlink(missing_ok=True)
            log.write(f"{text}\n({time.monotonic() - started:.1f} s)\n")
        if done.returncode != 0:
            raise PocError(
                f"'nvflare {' '.join(words[:2])}' failed ({done.returncode}); see {self._log}"
            )
        return _answer(text)


def _answer(text: str) -> dict[str, Any]:
    """The ``data`` of FLARE's envelope, which may stand after other lines."""
    start = text.find("{")
    try:
        parsed = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        parsed = {}
    inner = parsed.get("data", {}) if isinstance(parsed, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quietly(end: Any, process: psutil.Process) -> None:
    try:
        end(process)
    except psutil.NoSuchProcess:
        return
