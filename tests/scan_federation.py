"""Three hospitals of small scans that FedMEPD trains together, and what is said among them."""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.base import Trained
from polyclinic.algorithms.personal_filters import decoder_of
from polyclinic.comparison import run_federation
from polyclinic.comparison.federation import FederationResult
from polyclinic.data.batch import Patients, SplitName
from polyclinic.exchange import Contract, State, Tensors, Update
from polyclinic.filters import MASK, WEIGHT, FilterLayout, layout_of
from polyclinic.storage import load_tensors, save_tensors
from polyclinic.study import Study
from scan_site import ScanSite, scan_study

STUDY = scan_study(levels=2)
SEQUENCES = tuple(STUDY.modalities)
HELD = {"h1": ("flair",), "h2": ("flair", "t1"), "h3": SEQUENCES}
PATIENTS = {"h1": 4, "h2": 6, "h3": 4}
NOT_ANCHORED = {"anchored": False}
WHOLE = {"anchored": False, "decoder": "federated"}
ALONE = {"anchored": False, "decoder": "personal", "encoder": "personal"}
ROUNDS, PRETRAIN = 5, 2


def a_site(name: str, **changes: object) -> ScanSite:
    """One of the three hospitals."""
    site = ScanSite(name, STUDY, HELD[name], patients=PATIENTS[name], seed=int(name[1]))
    return replace(site, **changes)  # type: ignore[arg-type]


def the_sites(*names: str) -> dict[str, ScanSite]:
    """These hospitals; all when none is named."""
    return {name: a_site(name) for name in names or HELD}


def a_client(**settings: object) -> fedmepd.Client:
    """A client that neither scores nor trains more than it must."""
    quick = {"lr": 2e-3, "batch_size": 4, "validate_every": 0, "final_epochs": 0}
    return fedmepd.Client(**(quick | settings))  # type: ignore[arg-type]


@dataclass
class Diary:
    """A client that notes what its sites were given and what they made of it.

    Attributes:
        disk: where a site keeps its personal tensors from one call to the next, if not in memory.
        given, done: by site and round, those of the anchor step too.
    """

    client: fedmepd.Client
    disk: Path | None = None
    given: dict[tuple[str, int], State] = field(default_factory=dict)
    done: dict[tuple[str, int], Trained] = field(default_factory=dict)

    def contract(self, study: Study) -> Contract:
        return self.client.contract(study)

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        trained = self.client.train(patients, state, self._read(personal), t)
        return self._noted(patients.site, t, state, trained)

    def anchor(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        trained = self.client.anchor(patients, state, self._read(personal), t)
        return self._noted(patients.site, t, state, trained)

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        return self.client.finalise(patients, state, self._read(personal))

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        return self.client.predict(patients, state, personal, split)

    def _noted(self, site: str, t: int, state: State, trained: Trained) -> Trained:
        self.given[site, t], self.done[site, t] = state, trained
        return trained

    def _read(self, personal: Tensors) -> Tensors:
        """What a process that was started again finds."""
        if self.disk is None:
            return personal
        return load_tensors(self.disk, save_tensors(self.disk, personal))

    def mask(self, site: str, t: int) -> np.ndarray:
        """B that a site sent in a round."""
        return self.done[site, t].update.tensors[MASK]


@dataclass(frozen=True)
class Recorded:
    """A federation, and what happened in it; ``states`` by round, 0 after the first anchor step."""

    diary: Diary
    result: FederationResult
    states: list[State]


def recorded(sites: dict[str, ScanSite], disk: Path | None = None) -> Recorded:
    """Five rounds in which filters may become personal after two."""
    client = a_client(patience=1, pretrain=PRETRAIN, final_epochs=1)
    diary, states = Diary(client, disk), list[State]()
    result = run_federation(
        sites,
        diary,
        fedmepd.Server(),
        STUDY,
        ROUNDS,
        anchor="h3",
        on_round=lambda t, state, heard: states.append(state),
    )
    return Recorded(diary, result, [diary.given["h2", 1], *states])


def same(one: Tensors, other: Tensors) -> bool:
    """Whether tensors are the same, bit for bit."""
    return one.keys() == other.keys() and all(one[n].tobytes() == other[n].tobytes() for n in one)


def part(tensors: Tensors, *roots: str) -> Tensors:
    """Those whose names start so."""
    return {n: a for n, a in tensors.items() if n.startswith(roots)}


@functools.cache
def start() -> State:
    """What FedMEPD's server sends first; nobody may change it."""
    return fedmepd.Server().initial(STUDY)


@functools.cache
def contract(half: fedmepd.Server) -> Contract:
    """Of a server half."""
    return half.contract(STUDY)


@functools.cache
def filters() -> FilterLayout:
    """The filters of the decoder."""
    return layout_of(decoder_of(start().tensors))


def an_update(
    half: fedmepd.Server,
    held: tuple[str, ...],
    delta: float = 0.0,
    *,
    mask: np.ndarray | None = None,
    weight: float = 1.0,
    n: float = 4.0,
) -> Update:
    """Everything moved by ``delta``, in the rows that are federated."""
    specs = {m: contract(half).specs[m] for m in contract(half).names_for(held, "train")}
    tensors = {m: np.full(s.shape, delta, s.dtype) for m, s in specs.items()}
    if half.decoder == "partial":
        layout = filters()
        mask = np.ones(layout.size, np.uint8) if mask is None else mask
        for name in decoder_of(tensors):
            tensors[name][mask[layout.rows(name)] == 0] = 0.0
        tensors |= {MASK: mask, WEIGHT: np.float32(weight * mask)}
    return Update(tensors, {"n": n} | {f"n.{m}": n for m in held})


def folded(server: fedmepd.Server, **updates: Update) -> tuple[State, State]:
    """States before and after a round with these updates."""
    before = server.initial(STUDY)
    server.begin(STUDY, before, 1)
    for site, update in updates.items():
        server.accept(site, update)
    return before, server.finish()
