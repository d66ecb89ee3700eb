"""A toy with an anchor step and personal filters, whose every number can be worked out by hand.

A site adds 1 to whatever it holds; from its second round on it keeps filter 0 for itself. The
anchor site adds 10 plus the number of steps it remembers; its one known anchor is that number plus
1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyclinic.algorithms.base import Trained
from polyclinic.data.batch import Patients, SplitName
from polyclinic.exchange import Contract, State, Tensors, TensorSpec, Update, Way
from polyclinic.filters import MASK, WEIGHT, layout_of, without_personal_rows
from polyclinic.study import Study

ALL: tuple[Way, ...] = ("state", "train", "anchor")
DECODER = {"dec.a.weight": (2, 3), "dec.a.bias": (2,), "dec.b.weight": (1, 2)}
FILTERS = 3
LEVEL, KNOWN, TOTAL = "store.anchor.l1", "store.anchor.known", "store.total"


def contract(study: Study) -> Contract:
    """Every tensor that may cross the wall."""
    specs = {f"enc.{m}.w": TensorSpec((3,), m, ways=ALL) for m in study.modalities}
    specs |= {n: TensorSpec(shape, ways=ALL) for n, shape in DECODER.items()}
    specs[LEVEL] = TensorSpec((2, 2), ways=("state", "anchor"))
    specs[KNOWN] = TensorSpec((2,), bound=1.0, ways=("state", "anchor"))
    specs[TOTAL] = TensorSpec((1,), bound=1e6, ways=("state",))
    specs[MASK] = TensorSpec((FILTERS,), bound=1.0, dtype="uint8", ways=("train",))
    specs[WEIGHT] = TensorSpec((FILTERS,), bound=10.0, ways=("train",))
    return Contract(specs)


def _row(tensors: Tensors) -> None:
    tensors["dec.a.weight"][0, 2] = 7.0


def _bias(tensors: Tensors) -> None:
    tensors["dec.a.bias"][0] = 7.0


def _sign(tensors: Tensors) -> None:
    tensors["dec.a.weight"][0] = -0.0


def _weight(tensors: Tensors) -> None:
    tensors[WEIGHT][0] = 0.5


def _two(tensors: Tensors) -> None:
    tensors[MASK][1] = 2


def _long(tensors: Tensors) -> None:
    tensors[MASK] = np.append(tensors[MASK], np.uint8(1))


def _lost(tensors: Tensors) -> None:
    del tensors[MASK]


def _stray(tensors: Tensors) -> None:
    tensors[LEVEL][1] = 7.0


def _vote(tensors: Tensors) -> None:
    tensors[KNOWN][0] = 0.5


# What a site does to its good update, from its second round on, to tell what it must not.
FILTER_LEAKS: dict[str, Callable[[Tensors], None]] = {
    "a row of a personal filter": _row,
    "a bias of a personal filter": _bias,
    "a sign of a personal filter": _sign,
    "a weight of a personal filter": _weight,
    "a mask with a 2": _two,
    "a mask that is too long": _long,
    "no mask": _lost,
}
ANCHOR_LEAKS: dict[str, Callable[[Tensors], None]] = {
    "an anchor that is not known": _stray,
    "a vote of one half": _vote,
}
LEAKS = FILTER_LEAKS | ANCHOR_LEAKS


@dataclass(frozen=True)
class Client:
    """The toy's half at a site; ``leak`` names what it tells."""

    leak: str = ""

    def contract(self, study: Study) -> Contract:
        """See ``contract``."""
        return contract(study)

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """+1 for whatever is held."""
        rounds = personal.get("personal.rounds", np.zeros(1, np.float32))
        mask = np.ones(FILTERS, np.uint8)
        mask[0] = rounds[0] == 0
        names = contract(patients.study).names_for(patients.modalities, "train")
        moved = {n: np.ones_like(state.tensors[n]) for n in names - {MASK, WEIGHT}}
        sent = without_personal_rows(moved, mask) | {MASK: mask, WEIGHT: mask.astype(np.float32)}
        if self.leak in FILTER_LEAKS and rounds[0]:
            LEAKS[self.leak](sent)
        counts = {"n": float(patients.size("train"))}
        return Trained(Update(sent, counts), {"personal.rounds": rounds + 1}, {"train/loss": 0.5})

    def anchor(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """+10, and one more for every step before."""
        steps = personal.get("personal.steps", np.zeros(1, np.float32))
        names = contract(patients.study).names_for(patients.modalities, "anchor")
        sent = {n: np.full_like(state.tensors[n], 10 + steps[0]) for n in names - {LEVEL, KNOWN}}
        sent[KNOWN] = np.array([1, 0], np.float32)
        sent[LEVEL] = np.array([[steps[0] + 1] * 2, [0, 0]], np.float32)
        if self.leak in ANCHOR_LEAKS:
            LEAKS[self.leak](sent)
        return Trained(Update(sent), {"personal.steps": steps + 1}, {"train/loss": 0.25})

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """Keep what there is."""
        return Trained(Update({}), personal)

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """One half for everybody."""
        label = patients.labels(split).numpy()
        return {"probability": np.full((len(label), 2), 0.5), "label": label}


@dataclass(frozen=True)
class Server:
    """The toy's half at the coordinator: means by name, of a decoder's rows by their weights."""

    wants_anchor: bool = True
    open: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def contract(self, study: Study) -> Contract:
        """See ``contract``."""
        return contract(study)

    def initial(self, study: Study) -> State:
        """All 0."""
        specs = contract(study).only("state").specs
        return State({n: np.zeros(s.shape, np.float32) for n, s in specs.items()}, 0)

    def begin(self, study: Study, state: State, t: int) -> None:
        """Open a round."""
        self.open.update(state=state, t=t, updates=[])

    def accept(self, site: str, update: Update) -> None:
        """Keep it; the toy is small."""
        self.open["updates"].append(update)

    def finish(self) -> State:
        """The means."""
        new, updates = dict(self.open["state"].tensors), self.open["updates"]
        layout = layout_of({n: new[n] for n in DECODER})
        for name in new:
            came = [u for u in updates if name in u.tensors]
            rows = layout.rows(name)
            if not came:
                continue
            shape = (-1, *[1] * (new[name].ndim - 1))
            by = [np.ones(1) if rows is None else u.tensors[WEIGHT][rows] for u in came]
            total = sum(by).reshape(shape)
            summed = sum(u.tensors[name] * w.reshape(shape) for u, w in zip(came, by, strict=True))
            mean = np.divide(summed, total, out=np.zeros_like(summed), where=total > 0)
            new[name] = (new[name] + mean).astype(np.float32)
        new[TOTAL] = np.array([sum(u.scalars["n"] for u in updates)], np.float32)
        return State(new, self.open["t"])

    def absorb(self, state: State, update: Update) -> State:
        """Differences are added, anchors replaced."""
        moved = {
            n: a if n.startswith("store.") else state.tensors[n] + a
            for n, a in update.tensors.items()
        }
        return State(state.tensors | moved, state.round)
