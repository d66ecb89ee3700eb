"""FedMM: federated encoders pulled together by class prototypes, personal heads.

Peng et al., "FedMM: Federated multi-modal learning with modality heterogeneity in computational
pathology", ICASSP 2024, arXiv 2402.15858.

    i site, k modality, c class      M_i modalities site i holds      h^(k) embedding, D long
    h̄_{i,c}^(k) mean embedding of site i's training patients of class c; p̄_c^(k) prototype
    f^(k) encoder, g_i head of site i (never leaves it)              λ(t), β weights of the pull

    (1) p̄_c^(k) = mean of h̄_{i,c}^(k) over the sites that saw class c          paper Eqs. 6, 11
    (2) L_i = (1 - λ(t)) BCE(g_i(h), y) + λ(t) Σ_{k in M_i} (β/D) ||h^(k) - p̄_y^(k)||²
    (3) λ(t) = 1 / (1 + exp(-α (t - t0)))                                       paper Eq. 9
    (4) f^(k) = FedAvg (or FedProx) of f_i^(k) over the sites that hold k

After the last round every site fits a fresh head on the frozen federated encoders.

Where the paper leaves room, the choice is a setting and the default stands first:
label y in (1) and (2), whose text says ŷ once -> ``pull_toward`` label | prediction;
||.|| squared, as dividing by D suggests, or not -> ``norm`` squared | l2;
the shared BCE counted once, or for each modality -> ``task_loss`` once | per_modality;
h̄ of the trained local model in eval mode, or as in training -> ``embedding_mode`` eval | train;
sites weighing alike in (1), or by patients -> ``prototype_weight`` uniform | count;
no pull before prototypes exist, or a first round that only makes them -> ``initial_prototypes``
omit | exchange; unpaired patients get zeros and presence bits -> ``presence_bits``;
soft-max attention, not divided by sqrt(N) -> encoder setting ``attention_scale``.
The authors' script adds to the old weights and keeps prototypes per site; it is no reference.

Trap: prototypes taken in eval mode and pulled at in train mode under ELU or SELU with AlphaDropout
feed back on themselves. With encoder setting ``norm: none`` (the authors' code) their norm on TCGA
breast went from 11 to 450 in ten rounds and past 10^6 in thirty, until every prediction was the
same; ``polyclinic.algorithms.watch`` stops that run in round 9. With ``norm: layer``, the default,
norms stay at 9 to 15, though the classes of a weak modality (copy number) draw together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from polyclinic.algorithms.base import Trained
from polyclinic.algorithms.fedavg import proximal_term
from polyclinic.algorithms.final_head import fit_fresh_head
from polyclinic.algorithms.heads import (
    HeadTraining,
    check_heads,
    heads_loss,
    task_losses,
    training_output,
)
from polyclinic.algorithms.prototypes import (
    PROTO,
    EmbeddingMode,
    PrototypeWeight,
    average_prototypes,
    class_votes,
    known_prototypes,
    prototype_contract,
    prototype_update,
    site_statistics,
    statistics_metrics,
)
from polyclinic.algorithms.site import (
    SiteTask,
    open_keyed,
    predictions,
    train_round,
    training_metrics,
    validation_scores,
)
from polyclinic.algorithms.watch import watch
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
from polyclinic.exchange import STORE, Contract, State, Tensors, Update
from polyclinic.objectives.prototype import PullNorm, prototype_weight, pull
from polyclinic.objectives.task import probabilities
from polyclinic.study import Study
from polyclinic.training import BatchLoss, Fit, LocalTraining, require


def local_loss(task: Tensor, pulls: Mapping[str, Tensor], *, lam: float, beta: float) -> Tensor:
    """(1 - λ) BCE + λ β Σ_k pull_k, per patient (B,).  (2)"""
    loss = (1.0 - lam) * task
    for value in pulls.values():
        loss = loss + lam * beta * value
    return loss


@dataclass(frozen=True, kw_only=True)
class Client(HeadTraining, Architecture, LocalTraining):
    """A hospital's half.

    Attributes:
        alpha, t0, beta: α, t0 and β above.
        prototypes: False leaves out the pull and λ(t): keyed FedAvg with personal heads.
        norm, pull_toward, task_loss, embedding_mode, prototype_weight, initial_prototypes: see the
            top of this file.
        mu: FedProx's μ in (4); 0 is FedAvg.
        final_head: after the last round ``fit`` a fresh head, or ``keep`` the one that was trained.
        final_epochs: passes over the frozen embeddings for it.
        runaway, collapse: where ``polyclinic.algorithms.watch`` stops a run.
    """

    alpha: float = 0.05
    t0: int = 30
    beta: float = 0.25
    prototypes: bool = True
    norm: PullNorm = "squared"
    pull_toward: Literal["label", "prediction"] = "label"
    task_loss: Literal["once", "per_modality"] = "once"
    embedding_mode: EmbeddingMode = "eval"
    prototype_weight: PrototypeWeight = "uniform"
    initial_prototypes: Literal["omit", "exchange"] = "omit"
    mu: float = 0.0
    final_head: Literal["fit", "keep"] = "fit"
    final_epochs: int = 30
    runaway: float = 10.0
    collapse: float = 1e-8

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        check_architecture(self)
        check_heads(self, self.unimodal_heads)
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            require(value in allowed, name, " or ".join(allowed), value)
        for name in ("alpha", "beta", "mu", "final_epochs", "collapse"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        require(self.runaway > 0, "runaway", "above 0", self.runaway)

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        return contract_of(self, study, self.prototype_weight)

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """E epochs of (2) from the federated encoders, then this site's class means."""
        task = open_keyed(self, patients, state, personal, own_head=True)
        skip = t == 1 and self.prototypes and self.initial_prototypes == "exchange"
        fitted, optimiser = Fit(float("nan"), 0), None
        if not skip:
            fitted, optimiser = train_round(
                task, patients, self, self._loss(task, patients, state, t), t
            )
        found = site_statistics(task.model, patients, self.embedding_mode, t)
        sizes: Tensors = {}
        if not skip:  # an untrained encoder is no measure of size
            sizes = watch(found, personal, runaway=self.runaway, collapse=self.collapse)
        update = task.update(announced(patients))
        tensors = update.tensors | prototype_update(found, patients, self.prototype_weight)
        metrics = training_metrics(fitted) | statistics_metrics(found, patients)
        known = predictions(task.model, patients, "validation", self.fusion)
        metrics |= validation_scores(known, patients)
        kept = task.personal(optimiser if self.keep_optimiser else None) | sizes
        return Trained(Update(tensors, update.scalars), kept, metrics)

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """A fresh local head on the frozen federated encoders."""
        task = open_keyed(self, patients, state, personal, own_head=True)
        fitted = Fit(float("nan"), 0)
        if self.final_head == "fit":
            losses = task_losses(patients, self)
            fitted = fit_fresh_head(task, patients, self, losses, self.final_epochs)
        found = predictions(task.model, patients, "validation", self.fusion)
        metrics = training_metrics(fitted) | validation_scores(found, patients)
        return Trained(Update({}), task.personal(), metrics)

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """Class probabilities of a split with the federated encoders and the site's head."""
        task = open_keyed(self, patients, state, personal, own_head=True)
        return predictions(task.model, patients, split, self.fusion)

    def _loss(self, task: SiteTask, patients: Patients, state: State, t: int) -> BatchLoss:
        """(2), and FedProx's term."""
        lam = prototype_weight(t, alpha=self.alpha, t0=self.t0) if self.prototypes else 0.0
        losses = task_losses(patients, self)
        known = {m: known_prototypes(state, m) for m in patients.modalities} if lam else {}
        federated = [p for n, p in task.model.named_parameters() if n in task.shared]
        start = [p.detach().clone() for p in federated]
        times = len(patients.modalities) if self.task_loss == "per_modality" else 1

        def batch_loss(batch: Batch) -> Tensor:
            output = training_output(task.model, batch, self.modality_dropout)
            supervised = times * heads_loss(output, batch.labels, losses, self)
            labels = batch.labels
            if self.pull_toward == "prediction":
                labels = probabilities(output.fused.detach()).argmax(1)
            pulls = {
                m: pull(output.embeddings[m], output.present[m], p, k, labels, norm=self.norm)
                for m, (p, k) in known.items()
            }
            loss = local_loss(supervised, pulls, lam=lam, beta=self.beta)
            return loss + proximal_term(federated, start, mu=self.mu) if self.mu else loss

        return batch_loss


_CHOICES: dict[str, tuple[str, ...]] = {
    "norm": ("squared", "l2"),
    "pull_toward": ("label", "prediction"),
    "task_loss": ("once", "per_modality"),
    "embedding_mode": ("eval", "train"),
    "prototype_weight": ("uniform", "count"),
    "initial_prototypes": ("omit", "exchange"),
    "final_head": ("fit", "keep"),
}


@dataclass(frozen=True, kw_only=True)
class Server(Architecture):
    """The coordinator's half: (4) and (1).

    Attributes:
        weight: of an encoder in (4): by patients who carry its modality, all patients, or none.
        prototype_weight: of a site in (1), as at the client.
        rate: share of the way from the old encoders to the new mean.
    """

    weight: WeightRule = "n_k"
    prototype_weight: PrototypeWeight = "uniform"
    rate: float = 1.0
    desk: Desk = field(default_factory=Desk, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_architecture(self)
        require(self.weight in WEIGHT_RULES, "weight", "n_k, n or uniform", self.weight)
        require(0.0 < self.rate <= 2.0, "rate", "in (0, 2]", self.rate)
        allowed = _CHOICES["prototype_weight"]
        require(
            self.prototype_weight in allowed,
            "prototype_weight",
            " or ".join(allowed),
            self.prototype_weight,
        )

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        return contract_of(self, study, self.prototype_weight)

    def initial(self, study: Study) -> State:
        """Encoders drawn from the study's seed; no class has a prototype yet."""
        contract = self.contract(study)
        head = head_settings(self, modalities_of(study))
        store: Tensors = {
            n: np.zeros(s.shape, np.float32)
            for n, s in contract.specs.items()
            if n.startswith(STORE)
        }
        return State(initial_tensors(study, head, contract) | store)

    def begin(self, study: Study, state: State, t: int) -> None:
        """Open round ``t``."""
        self.desk.open(self.contract(study), state, t)

    def accept(self, site: str, update: Update) -> None:
        """Fold one update; a second of the same site is refused."""
        opened = self.desk.round
        votes = class_votes(update.tensors, self.prototype_weight)
        opened.accept(site, update, self.weight)
        for m, rows in votes.items():
            opened.means.add(site, PROTO + m, update.tensors[PROTO + m], rows)

    def finish(self) -> State:
        """The next state; without updates the old tensors, bit for bit."""
        return self.desk.close(lambda opened: opened.folded(self.rate) | average_prototypes(opened))


def contract_of(half: Architecture, study: Study, weight: PrototypeWeight) -> Contract:
    """Encoders (and unimodal heads), prototypes and counts, by holder; no fused head."""
    head = head_settings(half, modalities_of(study))
    return prototype_contract(model_contract(study, head, fused=False), study, weight)
