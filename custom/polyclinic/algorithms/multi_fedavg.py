"""Multi-FedAvg: one network with a branch per modality at every site, absent inputs zero.

The baseline FedMM (arXiv 2402.15858) compares with: FedAvg (arXiv 1602.05629, Algorithm 1) over all
parameters, encoders of absent modalities and the head included. The paper does not say how sites
weigh; the default is n_i, their training patients (``weight`` n | uniform).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from polyclinic.algorithms.base import Trained
from polyclinic.algorithms.fedavg import proximal_term
from polyclinic.algorithms.heads import (
    HeadTraining,
    check_heads,
    heads_loss,
    task_losses,
    training_output,
)
from polyclinic.algorithms.site import (
    SiteTask,
    open_task,
    predictions,
    train_round,
    training_metrics,
    validation_scores,
)
from polyclinic.algorithms.wire import (
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
from polyclinic.data.column import kind_reader
from polyclinic.exchange import Contract, State, Tensors, Update
from polyclinic.study import Study
from polyclinic.training import LocalTraining, require


def zero_filled(batch: Batch, study: Study) -> Batch:
    """The batch with every modality of the study; the site lacks some, and they become zeros.

    What an absent modality looks like is its kind's to say.
    """
    inputs, fields, present = dict(batch.inputs), dict(batch.fields), dict(batch.present)
    device = batch.labels.device
    for m in modalities_of(study):
        if m not in inputs:
            modality, b = study.modalities[m], batch.size
            nobody = kind_reader(modality.kind).absent(b, modality)
            zeros, inside = nobody.collate(torch.arange(b))
            inputs[m], fields[m] = zeros.to(device), inside.to(device)
            present[m] = torch.zeros(b, dtype=torch.bool, device=device)
    return Batch(inputs, fields, present, batch.labels)


@dataclass(frozen=True, kw_only=True)
class Client(HeadTraining, Architecture, LocalTraining):
    """Local training of the whole network.

    Attributes:
        presence_bits: off, as the baseline is not told what is missing.
        mu: FedProx's μ; 0 is FedAvg.
    """

    presence_bits: bool = False
    mu: float = 0.0

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        check_architecture(self)
        check_heads(self, self.unimodal_heads)
        require(self.mu >= 0.0, "mu", "0 or more", self.mu)

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall: all of them, with every site."""
        return contract_of(self, study)

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """E epochs from the global network on zero-filled patients."""
        task = self._task(patients, state)
        losses = task_losses(patients, self)
        weights = list(task.model.parameters())
        start = [p.detach().clone() for p in weights]

        def batch_loss(batch: Batch) -> Tensor:
            whole = zero_filled(batch, patients.study)
            output = training_output(task.model, whole, self.modality_dropout)
            loss = heads_loss(output, batch.labels, losses, self)
            return loss + proximal_term(weights, start, mu=self.mu) if self.mu else loss

        fitted, _ = train_round(task, patients, self, batch_loss, t)
        found = self._predictions(task, patients, "validation")
        metrics = training_metrics(fitted) | validation_scores(found, patients)
        return Trained(task.update(announced(patients)), {}, metrics)

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """Nothing is personal."""
        return Trained(Update({}), personal)

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """Class probabilities of a split with the global network."""
        return self._predictions(self._task(patients, state), patients, split)

    def _predictions(self, task: SiteTask, patients: Patients, split: SplitName) -> Tensors:
        study = patients.study
        return predictions(
            task.model, patients, split, self.fusion, lambda batch: zero_filled(batch, study)
        )

    def _task(self, patients: Patients, state: State) -> SiteTask:
        slots = modalities_of(patients.study)
        head = head_settings(self, slots, zero_fill=True)
        return open_task(patients, slots, head, lambda name: True, state, {})


@dataclass(frozen=True, kw_only=True)
class Server(Architecture):
    """w <- Σ_i n_i w_i / Σ_i n_i over all parameters.

    Attributes:
        presence_bits: as at the client.
        weight: ``n`` or ``uniform``.
    """

    presence_bits: bool = False
    weight: WeightRule = "n"
    desk: Desk = field(default_factory=Desk, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_architecture(self)
        require(self.weight in ("n", "uniform"), "weight", "n or uniform", self.weight)

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        return contract_of(self, study)

    def initial(self, study: Study) -> State:
        """Weights drawn from the study's seed."""
        head = head_settings(self, modalities_of(study), zero_fill=True)
        return State(initial_tensors(study, head, self.contract(study)))

    def begin(self, study: Study, state: State, t: int) -> None:
        """Open round ``t``."""
        self.desk.open(self.contract(study), state, t)

    def accept(self, site: str, update: Update) -> None:
        """Fold one update; a second of the same site is refused."""
        self.desk.round.accept(site, update, self.weight)

    def finish(self) -> State:
        """The next state; without updates the old tensors, bit for bit."""
        return self.desk.close(lambda opened: opened.folded())


def contract_of(half: Architecture, study: Study) -> Contract:
    """All parameters, exchanged by every site."""
    head = head_settings(half, modalities_of(study), zero_fill=True)
    return model_contract(study, head, fused=True, everywhere=True)
