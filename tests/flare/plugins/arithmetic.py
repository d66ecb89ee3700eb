"""A client half whose every number can be worked out by hand, and one for each way to fail."""

import os
import signal
import time
from dataclasses import dataclass, field

import numpy as np

from polyclinic.algorithms.base import Trained
from polyclinic.data.batch import Patients, SplitName
from polyclinic.errors import DataError
from polyclinic.exchange import Contract, State, Tensors, TensorSpec, Update
from polyclinic.study import Study


@dataclass(frozen=True)
class Client:
    """Adds ``step`` to every weight; remembers how many rounds it has trained.

    ``fault`` names what it does instead, ``marker`` is a file that says it has done so once.
    """

    step: float = 1.0
    fault: str = ""
    marker: str = ""
    words: list[str] = field(default_factory=list)

    def contract(self, study: Study) -> Contract:
        """One tensor for each modality and one shared by all."""
        specs = {f"enc.{m}.weight": TensorSpec((2, 3), m) for m in study.modalities}
        return Contract({**specs, "fuse.weight": TensorSpec((3,))})

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """Every difference is ``step`` + number of earlier rounds at this site."""
        self._fail()
        rounds = personal.get("personal.rounds", np.zeros(1, np.float32))
        delta = np.float32(self.step) + rounds[0]
        tensors: Tensors = {n: np.full_like(a, delta) for n, a in state.tensors.items()}
        if self.fault == "leak":
            tensors["personal.rounds"] = rounds
        if self.fault == "nan":
            tensors["fuse.weight"] = np.full(3, np.nan, np.float32)
        counts = {"n": float(patients.size("train"))}
        counts |= {f"n.{m}": float(patients.count("train", m)) for m in patients.modalities}
        return Trained(
            Update(tensors, counts), {"personal.rounds": rounds + 1}, {"train/loss": 0.5}
        )

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """The update is not empty on purpose: the desk must drop it."""
        return Trained(Update(dict(state.tensors)), {"personal.head": np.ones(2, np.float32)})

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """The right class with probability 0.9."""
        label = patients.labels(split).numpy()
        right = np.where(label == 1, 0.9, 0.1)
        return {"probability": np.stack([1 - right, right], axis=1), "label": label}

    def _fail(self) -> None:
        for word in self.words:
            print(word, flush=True)
        if self.fault == "words":
            raise ValueError("; ".join(self.words))
        if self.fault == "sentence":
            raise DataError(expected="rows", got=self.words[0], remedy="mend the table")
        if self.fault == "once" and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
