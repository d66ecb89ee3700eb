"""What the halves of every algorithm share at the wall: names, starts, weights, one open round."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from polyclinic.algorithms.fold import Float64, KeyedMean
from polyclinic.data.batch import Patients
from polyclinic.errors import ContractViolation
from polyclinic.exchange import STORE, Contract, State, Tensors, TensorSpec, Update, group_of
from polyclinic.models.multimodal import HeadSettings, SiteModel
from polyclinic.models.tensors import require_bearable, tensors_of
from polyclinic.study import Study
from polyclinic.training import initialise, require

WeightRule = Literal["n_k", "n", "uniform"]
WEIGHT_RULES: tuple[WeightRule, ...] = ("n_k", "n", "uniform")
# Of the entries of one round's differences. Adam moves a weight by about its learning rate a step
# at most: 1e-2 times a thousand steps is 10.
UPDATE_BOUND = 10.0
INITIAL = "initial"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The heads: settings that both halves of an algorithm need and must agree on.

    Attributes:
        head_hidden: width of the fused head's hidden layer; 0 makes it linear.
        head_dropout: after that layer.
        presence_bits: tell the fused head which modalities a patient has.
        unimodal_heads: a linear head on each modality's embedding, federated with its encoder.
    """

    head_hidden: int = 128
    head_dropout: float = 0.25
    presence_bits: bool = True
    unimodal_heads: bool = False


def head_settings(
    half: Architecture, slots: tuple[str, ...], *, zero_fill: bool = False
) -> HeadSettings:
    """The heads of a model whose fused head has these slots."""
    return HeadSettings(
        slots=slots,
        hidden=half.head_hidden,
        dropout=half.head_dropout,
        presence_bits=half.presence_bits,
        unimodal=half.unimodal_heads,
        zero_fill=zero_fill,
    )


def check_architecture(half: Architecture) -> None:
    """Refuse head settings out of range."""
    require(0 <= half.head_hidden <= 65536, "head_hidden", "in [0, 65536]", half.head_hidden)
    require(0.0 <= half.head_dropout < 1.0, "head_dropout", "in [0, 1)", half.head_dropout)


def modalities_of(study: Study) -> tuple[str, ...]:
    """All modalities of a study, sorted."""
    return tuple(sorted(study.modalities))


def model_contract(
    study: Study, head: HeadSettings, *, fused: bool, everywhere: bool = False
) -> Contract:
    """The model tensors that are federated.

    Args:
        fused: ``head.fused.*`` is federated among all sites.
        everywhere: every site exchanges every tensor, whatever it holds.
    """
    with torch.device("meta"):
        model = SiteModel(study, modalities_of(study), head)
    require_bearable(model)
    specs = {}
    for name, value in model.state_dict().items():
        part = name.split(".")[1]
        shared = part not in study.modalities
        if value.is_floating_point() and (fused or not shared):
            holder = None if shared or everywhere else part
            specs[name] = TensorSpec(tuple(value.shape), holder, UPDATE_BOUND)
    return Contract(specs)


def initial_tensors(study: Study, head: HeadSettings, contract: Contract) -> Tensors:
    """Values of the contract's model tensors at round 0, drawn from the study's seed."""
    model = SiteModel(study, modalities_of(study), head)
    names = [n for n in contract.specs if not n.startswith(STORE)]
    initialise(model, sorted({group_of(n) for n in names}), study.seed, INITIAL)
    values = tensors_of(model)
    return {n: values[n] for n in names}


def announced(patients: Patients) -> dict[str, float]:
    """``n`` and ``n.<modality>`` of the training rows: patients, or their records.

    What 1 to ``minimum_cell - 1`` patients stand behind is told as ``minimum_cell``: the update
    still has a weight, and no small count leaves the site.
    """
    behind = {"n": (patients.size("train"), patients.distinct("train"))} | {
        f"n.{m}": (patients.count("train", m), patients.distinct("train", m))
        for m in patients.modalities
    }
    least = patients.minimum_cell
    return {k: float((n if p >= least else least) if n else 0) for k, (n, p) in behind.items()}


def weight_of(rule: WeightRule, holder: str | None, scalars: Mapping[str, float]) -> float:
    """The weight of one tensor of an update: n_{i,k}, n_i or 1.

    Raises:
        ContractViolation: the count is missing, negative or not finite.
    """
    if rule == "uniform":
        return 1.0
    key = "n" if rule == "n" or holder is None else f"n.{holder}"
    value = scalars.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise _refused(f"a number '{key}' with the update", type(value).__name__)
    if not np.isfinite(value) or value < 0:
        raise _refused(f"a finite '{key}' of 0 or more", "another number")
    return float(value)


@dataclass
class OpenRound:
    """One round at the server: the state that was broadcast, and the running means.

    Guarantees:
    - An update is counted whole or not at all, and once per site.
    - ``finish`` without updates gives the old tensors, bit for bit.
    """

    contract: Contract
    state: State
    t: int
    means: KeyedMean = field(default_factory=KeyedMean)
    sites: set[str] = field(default_factory=set)

    def accept(
        self,
        site: str,
        update: Update,
        rule: WeightRule,
        rows: Mapping[str, Float64] | None = None,
    ) -> None:
        """Fold the model tensors of one update, after checking all of it.

        Args:
            rows: by name, a weight for each row of a tensor instead of one by the rule.

        Raises:
            ContractViolation: a second update, an unknown name, shape, type or number.
        """
        if site in self.sites:
            raise _refused("one update per site and round", "a second one")
        check_update(update, self.contract)
        weights: dict[str, float | Float64] = {
            n: weight_of(rule, self.contract.specs[n].holder, update.scalars)
            for n in update.tensors
            if not n.startswith(STORE)
        }
        weights |= rows or {}
        self.sites.add(site)
        for name, weight in weights.items():
            self.means.add(site, name, update.tensors[name], weight)

    def folded(self, rate: float = 1.0, rates: Mapping[str, float] | None = None) -> Tensors:
        """old + rate · mean difference for every model tensor somebody sent; the rest as it was.

        Args:
            rates: by root of a name (``dec``), another rate.
        """
        out: Tensors = {}
        for name, old in self.state.tensors.items():
            kept = name.startswith(STORE) or name not in self.means.names()
            if kept or not self.means.weight(name).any():
                out[name] = old
            else:
                share = (rates or {}).get(name.split(".")[0], rate)
                moved = old.astype(np.float64) + share * self.means.mean(name)
                out[name] = moved.astype(old.dtype)
        return out


def check_update(update: Update, contract: Contract) -> None:
    """Refuse an update that is not, tensor by tensor, what the contract names.

    The guard in front of the server refuses these first; a fold must be safe without it, too.
    """
    for name, value in update.tensors.items():
        spec = contract.specs.get(name)
        if spec is None:
            raise _refused("names of the contract", "an unknown name")
        if not isinstance(value, np.ndarray) or value.dtype != np.dtype(spec.dtype):
            raise _refused(f"'{name}' as a {spec.dtype} array", type(value).__name__)
        if value.shape != spec.shape:
            raise _refused(f"'{name}' of shape {spec.shape}", f"shape {value.shape}")
        if not np.isfinite(value).all():
            raise _refused(f"finite numbers in '{name}'", "NaN or infinity")


def _refused(expected: str, got: str) -> ContractViolation:
    return ContractViolation(expected=expected, got=got, remedy="refuse the update")


@dataclass
class Desk:
    """Where a server keeps its open round: a frozen server holds one of these."""

    current: OpenRound | None = None

    def open(self, contract: Contract, state: State, t: int) -> OpenRound:
        """Open round ``t``; what an abandoned round held is forgotten."""
        self.current = OpenRound(contract, state, t)
        return self.current

    @property
    def round(self) -> OpenRound:
        """The open round."""
        if self.current is None:
            raise _refused("begin before accept or finish", "no open round")
        return self.current

    def close(self, fold: Callable[[OpenRound], Tensors]) -> State:
        """The next state; the round is closed."""
        opened = self.round
        if not opened.sites:
            state = State(opened.state.tensors, opened.t)
        else:
            state = State(fold(opened), opened.t)
        self.current = None
        return state
