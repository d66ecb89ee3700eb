"""A site's kit in a folder, and FLARE's context for one job in it: no server, no network."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.private.aux_runner import AuxRunner

from polyclinic.exchange import Contract, State, TensorSpec
from polyclinic.flare import child
from polyclinic.flare.convert import task_data
from polyclinic.flare.executor import SiteExecutor
from polyclinic.flare.site import CONTRACT

JOB = "3f2d0c8e-0000-4000-8000-000000000001"
COMMAND = (sys.executable, str(Path(__file__).with_name("plugin_worker.py")))
CLIENT = "polyclinic.algorithms.arithmetic.Client"

STUDY = {
    "name": "demo",
    "task": {"label": "subtype", "classes": ["a", "b"]},
    "modalities": {
        "cnv": {"kind": "vector", "features": ["f1", "f2"], "units": "log2"},
        "rna": {"kind": "vector", "features": ["g1"], "units": "z"},
    },
    "split": {"source": "manifest"},
}
PATIENTS = 24


class Engine:
    """As much of FLARE's engine as the code touches."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.aux_runner = AuxRunner(self)

    def get_workspace(self) -> Workspace:
        return self.workspace


@dataclass
class Kit:
    """A hospital that holds ``cnv`` but not ``rna``.

    Attributes:
        root: the workspace folder.
        settings: what differs from the defaults in ``polyclinic.yaml``.
    """

    root: Path
    settings: dict[str, Any] = field(default_factory=dict)
    sites: int = 3
    site: str = "site-1"

    def __post_init__(self) -> None:
        for name in ("startup", "local", "data"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        config = self.root / JOB / f"app_{self.site}" / "config"
        config.mkdir(parents=True, exist_ok=True)
        (config / "study.json").write_text(json.dumps(STUDY))
        self.write_data()
        self.write_settings()

    @property
    def storage(self) -> Path:
        return self.root / "state"

    def write_data(self, name: str = "P{:04d}") -> None:
        """24 patients, half of each class; 16 to train, 8 to test."""
        rows = ["patient_id,subtype,split"]
        table = ["patient_id,f1,f2"]
        for i in range(PATIENTS):
            split = "test" if i % 3 == 2 else "train"
            rows.append(f"{name.format(i)},{'ab'[i % 2]},{split}")
            table.append(f"{name.format(i)},{i * 0.1:.2f},{-i * 0.2:.2f}")
        (self.root / "data" / "manifest.csv").write_text("\n".join(rows) + "\n")
        (self.root / "data" / "cnv.csv").write_text("\n".join(table) + "\n")

    def write_settings(self) -> None:
        source = {"kind": "vector", "table": "cnv.csv", "units": "log2"}
        facts = {
            "site": self.site,
            "storage": "../state",
            "minimum_cell": 1,
            "cohorts": {"demo": {"root": "../data", "modalities": {"cnv": source}}},
        }
        text = yaml.safe_dump(facts | self.settings)
        (self.root / "local" / "polyclinic.yaml").write_text(text)

    def context(self, task: str = "train") -> FLContext:
        fl_ctx = FLContext()
        fl_ctx.set_prop(ReservedKey.ENGINE, Engine(Workspace(str(self.root), self.site)))
        fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, self.site)
        fl_ctx.set_prop(FLContextKey.CURRENT_JOB_ID, JOB)
        fl_ctx.set_prop(ReservedKey.RUN_NUM, JOB)
        fl_ctx.set_prop(FLContextKey.TASK_NAME, task)
        meta = {JobMetaKey.JOB_CLIENTS: [{"name": f"site-{i + 1}"} for i in range(self.sites)]}
        fl_ctx.set_prop(FLContextKey.JOB_META, meta)
        return fl_ctx


def agreed(fl_ctx: FLContext, tensors: dict[str, Any]) -> FLContext:
    """The context as the executor leaves it when the job's contract is these tensors."""
    specs = {n: TensorSpec(a.shape, "cnv" if ".cnv" in n else None) for n, a in tensors.items()}
    fl_ctx.set_prop(CONTRACT, Contract(specs), private=True, sticky=False)
    return fl_ctx


def executor(monkeypatch: Any, run: str = "", **args: Any) -> SiteExecutor:
    """An executor whose child knows the test's client half."""
    monkeypatch.setattr(child, "COMMAND", COMMAND)
    return SiteExecutor(client={"path": CLIENT, "args": args}, run=run)


def request(round_: int = 0, **scalars: Any) -> Shareable:
    """The task a server sends to a holder of ``cnv``: all weights are ``round_``."""
    tensors = {
        "enc.cnv.weight": np.full((2, 3), round_, np.float32),
        "fuse.weight": np.full(3, round_, np.float32),
    }
    return task_data(State(tensors, round_), scalars)


def ask(site: SiteExecutor, kit: Kit, task: str, data: Shareable | None = None) -> Shareable:
    """The executor's reply to a task."""
    return site.execute(task, request() if data is None else data, kit.context(task), Signal())
