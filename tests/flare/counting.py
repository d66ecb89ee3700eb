"""A federation whose right answer is exact: every site returns +1 for whatever it holds.

After t rounds in which all count, every entry that somebody holds is t, whatever the weights are.
"""

from dataclasses import dataclass

import numpy as np
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from polyclinic.exchange import Contract, State, TensorSpec, Update
from polyclinic.flare.convert import CENSUS, TRAIN, read_task, reply
from polyclinic.flare.site import CONTRACT
from polyclinic.study import Study, parse_study

STUDY = {
    "name": "demo",
    "task": {"label": "y", "classes": ["a", "b"]},
    "modalities": {
        "wsi": {"kind": "bag", "dim": 4},
        "cnv": {"kind": "vector", "features": ["g1", "g2"]},
    },
    "embedding": 2,
}
HELD = {"site-1": ["wsi"], "site-2": ["cnv", "wsi"], "site-3": ["cnv"]}


@dataclass
class CountingServer:
    """Adds the patient-weighted mean of what came, name by name."""

    size: int = 3

    def contract(self, study: Study) -> Contract:
        specs = {f"enc.{m}.w": TensorSpec((self.size,), m) for m in study.modalities}
        return Contract({**specs, "fuse.w": TensorSpec((2, 2))})

    def initial(self, study: Study) -> State:
        specs = self.contract(study).specs
        return State({n: np.zeros(s.shape, np.float32) for n, s in specs.items()}, 0)

    def begin(self, study: Study, state: State, t: int) -> None:
        self.state, self.t = state, t
        self.sums: dict[str, np.ndarray] = {}
        self.weights: dict[str, float] = {}

    def accept(self, site: str, update: Update) -> None:
        for name, value in update.tensors.items():
            weighted = value.astype(np.float64) * update.scalars["n"]
            self.sums[name] = self.sums.get(name, 0.0) + weighted
            self.weights[name] = self.weights.get(name, 0.0) + update.scalars["n"]

    def finish(self) -> State:
        new = dict(self.state.tensors)
        for name, total in self.sums.items():
            new[name] = (new[name] + total / self.weights[name]).astype(np.float32)
        return State(new, self.t)


class PlusOne(Executor):
    """A site that answers +1."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__()
        self.fingerprint = fingerprint

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        site = fl_ctx.get_identity_name()
        if task_name == CENSUS:
            facts = {"modalities": HELD[site], "fingerprint": self.fingerprint, "n": 20.0}
            return reply(Update({}, facts))
        state, scalars = read_task(shareable)
        if task_name != TRAIN:
            return reply(Update({}, {}), {"test/auroc": 0.5})
        contract = CountingServer().contract(parse_study(STUDY))
        fl_ctx.set_prop(CONTRACT, contract, private=True, sticky=False)
        tensors = {n: np.ones(a.shape, np.float32) for n, a in state.tensors.items()}
        told = {"n": 20.0, "t": float(scalars["t"])}
        return reply(Update(tensors, told), {"train/loss": 0.5})
