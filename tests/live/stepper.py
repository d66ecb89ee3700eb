"""Hospitals of the toy in ``flare/plugins/stepping.py``, of which some hang or tell too much.

They keep their own egress filters: what one tells too much has to be stopped there.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from flare.counting import HELD, STUDY
from flare.plugins.stepping import LEAKS, Client, contract
from polyclinic.exchange import Tensors, Update
from polyclinic.flare.convert import ANCHOR, CENSUS, TRAIN, read_task, reply
from polyclinic.flare.site import CONTRACT
from polyclinic.study import Study, parse_study

MODULES = ("stepper.", "flare.plugins.")
HANG = "hang"
ANCHOR_SITE = "site-2"  # the one that holds both modalities


@dataclass(frozen=True)
class _Patients:
    modalities: tuple[str, ...]
    study: Study

    def size(self, split: str) -> int:
        return 20


class Stepper(Executor):
    """Answers as the toy does, but for what ``behaviour`` says.

    Args:
        behaviour: by site, then by task and round (``anchor 2``): ``hang``, or a key of ``LEAKS``.
    """

    def __init__(self, behaviour: dict[str, dict[str, str]]) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.kept: Tensors = {}

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """The answer of this round."""
        site, study = fl_ctx.get_identity_name(), parse_study(STUDY)
        if task_name == CENSUS:
            facts: dict[str, Any] = {"modalities": HELD[site], "n": 20.0}
            facts["fingerprint"] = study.fingerprint()
            offer = {"anchor": 1.0} if site == ANCHOR_SITE else {}
            return reply(Update({}, facts | offer))
        state, scalars = read_task(shareable)
        if task_name not in (TRAIN, ANCHOR):
            return reply(Update({}, {}), {"test/auroc": 0.5})
        t = int(scalars["t"])
        does = self.behaviour.get(site, {}).get(f"{task_name} {t}", "")
        if does == HANG:
            self.log_info(fl_ctx, f"hangs in {task_name} {t}")
            while not abort_signal.triggered:
                time.sleep(0.1)
        client, patients = Client(does if does in LEAKS else ""), _Patients(HELD[site], study)
        step = client.train if task_name == TRAIN else client.anchor
        done = step(patients, state, self.kept, t)  # type: ignore[arg-type]
        self.kept = done.personal
        held, way = HELD[site], "train" if task_name == TRAIN else "anchor"
        agreed = contract(study)
        names = agreed.names_for(held, way)  # type: ignore[arg-type]
        specs = type(agreed)({n: agreed.specs[n] for n in names})
        fl_ctx.set_prop(CONTRACT, specs, private=True, sticky=False)
        return reply(Update(done.update.tensors, done.update.scalars | {"t": float(t)}))


def write_stepping_job(
    folder: Path,
    rounds: int,
    behaviour: Mapping[str, Mapping[str, str]] | None = None,
    *,
    wants_anchor: bool = True,
    **args: Any,
) -> Path:
    """A job of the toy."""
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    server = {"path": "flare.plugins.stepping.Server", "args": {"wants_anchor": wants_anchor}}
    asked = {"rounds": rounds, "min_sites": 2, "server": server, "stages": ["train"], **args}
    site = {"path": "stepper.Stepper", "args": {"behaviour": behaviour or {}}}
    files = {
        folder / "meta.json": {
            "name": folder.name,
            "min_clients": len(HELD),
            "deploy_map": {"app": ["@ALL"]},
            "scope": "polyclinic",
        },
        config / "study.json": STUDY,
        config / "config_fed_server.json": {
            "format_version": 2,
            "server": {"task_request_interval": 0.1},
            "dead_client_grace_period": 5,
            "workflows": [
                {"id": "rounds", "path": "polyclinic.flare.controller.Rounds", "args": asked}
            ],
        },
        config / "config_fed_client.json": {
            "format_version": 2,
            "default_task_fetch_interval": 0.1,
            "executors": [{"tasks": ["census", "train", "anchor"], "executor": site}],
        },
    }
    for path, content in files.items():
        path.write_text(json.dumps(content))
    return folder


def is_everywhere(tensors: Mapping[str, np.ndarray], prefix: str, value: float) -> bool:
    """Whether every entry under a prefix is this number exactly."""
    return all((a == value).all() for n, a in tensors.items() if n.startswith(prefix))
