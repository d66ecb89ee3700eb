"""FedAvg keyed by modality, with FedProx's proximal term: the baseline of every other file here.

McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
AISTATS 2017, arXiv 1602.05629 (Algorithm 1); Li et al., "Federated optimization in heterogeneous
networks", MLSys 2020, arXiv 1812.06127 (Eq. 2). Keyed: an encoder is averaged over the sites that
hold its modality, so a site's update simply lacks the rest.

    w    weights           Δ_i   w_i - w, what site i sends
    n_i  training patients of site i, n_{i,k} those who carry modality k        μ  proximal weight
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from polyclinic.algorithms.base import Trained
from polyclinic.algorithms.heads import (
    HeadTraining,
    check_heads,
    heads_loss,
    task_losses,
    training_output,
)
from polyclinic.algorithms.site import (
    SiteTask,
    open_keyed,
    predictions,
    train_round,
    training_metrics,
    validation_scores,
)
from polyclinic.algorithms.wire import (
    WEIGHT_RULES,
    Architecture,
    Desk,
    WeightRule,
    announced,
    check_architecture,
    head_settings,
    initial_tensors,
    modalities_of,
    model_contract,
)
from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.exchange import Contract, State, Tensors, Update
from polyclinic.study import Study
from polyclinic.training import LocalTraining, require

Head = Literal["personal", "federated"]


def proximal_term(weights: Iterable[Tensor], start: Iterable[Tensor], *, mu: float) -> Tensor:
    """μ/2 ||w - w^t||².  FedProx Eq. 2"""
    squares = [(w - w0).square().sum() for w, w0 in zip(weights, start, strict=True)]
    return 0.5 * mu * torch.stack(squares).sum()


def contract_of(half: Architecture, study: Study, head: Head) -> Contract:
    """Encoders and unimodal heads by holder; the fused head with every site when federated."""
    slots = head_settings(half, modalities_of(study))
    return model_contract(study, slots, fused=head == "federated")


@dataclass(frozen=True, kw_only=True)
class Client(HeadTraining, Architecture, LocalTraining):
    """Local training of the encoders a site holds.

    Attributes:
        head: the fused head stays ``personal``, or is ``federated`` with a slot for every
            modality of the study.
        mu: μ of FedProx; 0 is FedAvg.
    """

    head: Head = "personal"
    mu: float = 0.0

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        check_architecture(self)
        check_heads(self, self.unimodal_heads)
        require(self.head in ("personal", "federated"), "head", "personal or federated", self.head)
        require(self.mu >= 0.0, "mu", "0 or more", self.mu)

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        return contract_of(self, study, self.head)

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """w_i <- E epochs from w on the site's patients; sends Δ_i.  Algorithm 1, ClientUpdate"""
        task = self._task(patients, state, personal)
        losses = task_losses(patients, self)
        federated = [p for n, p in task.model.named_parameters() if n in task.shared]
        start = [p.detach().clone() for p in federated]

        def batch_loss(batch: Batch) -> Tensor:
            output = training_output(task.model, batch, self.modality_dropout)
            loss = heads_loss(output, batch.labels, losses, self)
            return loss + proximal_term(federated, start, mu=self.mu) if self.mu else loss

        fitted, optimiser = train_round(task, patients, self, batch_loss, t)
        kept = task.personal(optimiser if self.keep_optimiser else None)
        found = predictions(task.model, patients, "validation", self.fusion)
        metrics = training_metrics(fitted) | validation_scores(found, patients)
        return Trained(task.update(announced(patients)), kept, metrics)

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """Nothing is left to fit: the personal tensors as they are."""
        return Trained(Update({}), personal)

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """Class probabilities of a split with the federated encoders and the site's head."""
        task = self._task(patients, state, personal)
        return predictions(task.model, patients, split, self.fusion)

    def _task(self, patients: Patients, state: State, personal: Tensors) -> SiteTask:
        return open_keyed(self, patients, state, personal, own_head=self.head == "personal")


@dataclass(frozen=True, kw_only=True)
class Server(Architecture):
    """w <- w + η Σ_i weight_i Δ_i / Σ_i weight_i, name by name.  Algorithm 1, server

    Attributes:
        head: as at the client.
        weight: ``n_k`` weighs a tensor by the site's patients who carry its modality, ``n`` by
            all of them, ``uniform`` not at all.
        rate: η; below 1 the global model is a moving average of the rounds.
    """

    head: Head = "personal"
    weight: WeightRule = "n_k"
    rate: float = 1.0
    desk: Desk = field(default_factory=Desk, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_architecture(self)
        require(self.head in ("personal", "federated"), "head", "personal or federated", self.head)
        require(self.weight in WEIGHT_RULES, "weight", "n_k, n or uniform", self.weight)
        require(0.0 < self.rate <= 2.0, "rate", "in (0, 2]", self.rate)

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        return contract_of(self, study, self.head)

    def initial(self, study: Study) -> State:
        """Weights drawn from the study's seed."""
        head = head_settings(self, modalities_of(study))
        return State(initial_tensors(study, head, self.contract(study)))

    def begin(self, study: Study, state: State, t: int) -> None:
        """Open round ``t``."""
        self.desk.open(self.contract(study), state, t)

    def accept(self, site: str, update: Update) -> None:
        """Fold one update; a second of the same site is refused."""
        self.desk.round.accept(site, update, self.weight)

    def finish(self) -> State:
        """The next state; without updates the old tensors, bit for bit."""
        return self.desk.close(lambda opened: opened.folded(self.rate))
