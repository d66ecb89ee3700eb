"""What the halves of FedMEPD and its baselines agree on: settings, names at the wall, a start."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from polyclinic.algorithms.anchors import anchor_specs
from polyclinic.algorithms.scan_training import mask_of, network_of, scan_model
from polyclinic.algorithms.wire import INITIAL, UPDATE_BOUND
from polyclinic.exchange import STORE, Contract, State, TensorSpec, Way, group_of
from polyclinic.filters import MASK, WEIGHT, FilterLayout
from polyclinic.models.tensors import require_bearable, tensors_of
from polyclinic.study import Study
from polyclinic.training import initialise, require

Decoder = Literal["partial", "federated", "personal"]
TOTAL = STORE + "total"
# H moves by at most a twentieth of a ratio that is held to 10, from 1.
LARGEST_WEIGHT = 10.0


def root_of(name: str) -> str:
    """``enc``, ``dec``, ``calib`` or ``aux``."""
    return name.split(".", 1)[0]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Settings that both halves need and must agree on.

    Attributes:
        encoder: encoders are ``federated``, or ``personal`` for local training.
        decoder: ``partial`` by (4), ``federated`` whole, or ``personal`` whole (FedMEMA).
        anchored: rounds end with step (3).
        slots: N_k, anchors of a class; FedMEMA takes 3.
        zero_fill: one network with every encoder everywhere; features of absent sequences are zero.
    """

    encoder: Literal["federated", "personal"] = "federated"
    decoder: Decoder = "partial"
    anchored: bool = True
    slots: int = 4
    zero_fill: bool = False

    def __post_init__(self) -> None:
        require(self.encoder in ("federated", "personal"), "encoder", "federated or personal", "")
        allowed = ("partial", "federated", "personal")
        require(self.decoder in allowed, "decoder", " or ".join(allowed), self.decoder)
        require(
            type(self.slots) is int and 1 <= self.slots <= 16, "slots", "in [1, 16]", self.slots
        )
        alone = self.encoder == "personal"
        require(not alone or not self.anchored, "anchored", "false where nothing is shared", "")
        require(not alone or self.decoder == "personal", "decoder", "personal like encoder", "")


def contract_of(half: Agreement, study: Study) -> Contract:
    """Encoders by holder, the decoder, anchors, and what is said of filters, each on its way."""
    network, sequences = network_of(study), tuple(sorted(study.modalities))
    model = scan_model(study, sequences, calibrated=False, auxiliary=False)
    require_bearable(model)
    shared: tuple[Way, ...] = ("state", "train")
    step: tuple[Way, ...] = ("anchor",) if half.anchored else ()
    ways: dict[str, tuple[Way, ...]] = {
        "enc": (*shared, *step) if half.encoder == "federated" else (),
        # A personal decoder is not sent; that of the anchor site serves whoever holds everything.
        "dec": (*shared, *step)
        if half.decoder != "personal"
        else (("state", *step) if step else ()),
    }
    specs: dict[str, TensorSpec] = {}
    for name, value in model.state_dict().items():
        root, part = name.split(".")[:2]
        holder = part if root == "enc" and not half.zero_fill else None
        if ways[root]:
            specs[name] = TensorSpec(tuple(value.shape), holder, UPDATE_BOUND, ways=ways[root])
    if half.anchored:
        specs |= anchor_specs(network.channels, len(mask_of(study).classes), half.slots)
    if half.decoder == "partial":
        filters = FilterLayout.of({n: s.shape for n, s in specs.items()}).size
        specs[TOTAL] = TensorSpec((1,), bound=1e9, ways=("state",))
        specs[MASK] = TensorSpec((filters,), bound=1.0, dtype="uint8", ways=("train",))
        specs[WEIGHT] = TensorSpec((filters,), bound=LARGEST_WEIGHT, ways=("train",))
    return Contract(specs)


def initial_state(half: Agreement, study: Study) -> State:
    """Encoders and decoder drawn from the study's seed; no anchor is known."""
    specs = contract_of(half, study).specs
    sequences = tuple(sorted(study.modalities))
    model = scan_model(study, sequences, calibrated=False, auxiliary=False)
    model.to_empty(device="cpu")
    names = [n for n, s in specs.items() if "state" in s.ways and not n.startswith(STORE)]
    initialise(model, sorted({group_of(n) for n in names}), study.seed, INITIAL)
    values = tensors_of(model)
    store = {
        n: np.zeros(s.shape, np.float32)
        for n, s in specs.items()
        if "state" in s.ways and n.startswith(STORE)
    }
    return State({n: values[n] for n in names} | store)
