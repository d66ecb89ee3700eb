"""Chest films with patient metadata, joined in one latent space; metadata may be missing anywhere.

A reconstruction. The source is a published description in prose, "robust multimodal federated
learning" of chest X-rays with age, sex and comorbidities (A. Dali, April 2026): three places to
fuse, sites that may lack metadata, privacy noise on the metadata branch. It has no equations,
sizes, data or figures: those below are this package's own, and reproduce no published number.

    i site   j patient   k modality: I the film (anchor), M metadata, also several of them
    v, b values and presence bits of the fields      z_k latent of modality k, D long
    m_k  whether the patient has k   g_k head of k   g_F fused head   y label, CE task loss
    n_{i,k} training patients of site i who have k   p, q dropout of modalities and of fields

    (1) z_M = E_M([b·v + (1 - b)·τ, b])               models.vector: missing token, presence
    (2) gated   z = z_I + Σ_M m_M σ(W_M [z_I, z_M]) z_M         models.joint; the default
        concat  z = [z_I, m_M z_M + (1 - m_M) e_M, m_M]         mean   z = mean of present z_k
    (3) L = CE(g_F(z), y) + a_I m_I CE(g_I(z_I), y) + a_M Σ_M m_M CE(g_M(z_M), y)
    (4) in training m_M <- 0 with chance p, b_f <- 0 with chance q
    (5) θ_k <- Σ_i n_{i,k} θ_{k,i} / Σ_i n_{i,k}, over the sites that hold k; g_F by n_i
    (6) isolated: g_F(z) sees z_I without gradient; E_I and g_I learn from CE(g_I) alone

A site without metadata sends nothing of E_M, g_M and W_M. A patient without a film is joined on a
learned token in place of z_I; a site without films trains the rest. Noising the gradients of E_M
alone would protect nobody: those of g_F and E_I depend on metadata too. Under (6) they do not, and
``dp_group`` names everything that does; privacy noise on that group is yet to come.

Rivals, as ``mode``: ``early`` writes metadata beside the pixels, ``late`` averages the heads'
probabilities, ``image_only`` reads films alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polyclinic.algorithms.balance import encoder_groups
from polyclinic.algorithms.base import Trained
from polyclinic.algorithms.heads import Losses, task_losses
from polyclinic.algorithms.joint import (
    Joint,
    Model,
    anchor_of,
    check_joint,
    contract_of,
    dp_group,
    initial_of,
    model_of,
    refuse_idle,
)
from polyclinic.algorithms.multi_fedavg import zero_filled
from polyclinic.algorithms.site import (
    placed,
    predictions,
    train_epochs,
    training_metrics,
    validation_scores,
)
from polyclinic.algorithms.wire import Desk, announced
from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.data.hidden import dropped
from polyclinic.exchange import Contract, State, Tensors, Update
from polyclinic.models.joint import JointModel
from polyclinic.models.multimodal import Output, encoded
from polyclinic.models.tensors import difference, tensors_of
from polyclinic.study import Study
from polyclinic.training import (
    BatchLoss,
    Fit,
    LocalTraining,
    learning_rate,
    predict,
    require,
    seeded,
)


def joint_loss(
    output: Output,
    labels: Tensor,
    losses: Losses,
    anchor: str,
    *,
    fused: float = 1.0,
    image: float = 1.0,
    metadata: float = 1.0,
) -> Tensor:
    """(3), per patient (B,); ``fused`` weighs its first term."""
    total = fused * losses(output.fused, labels)
    for m, logits in output.unimodal.items():
        weight = image if m == anchor else metadata
        total = total + weight * losses(logits, labels) * output.present[m]
    return total


@dataclass(frozen=True, kw_only=True)
class Client(Joint, LocalTraining):
    """A hospital's half.

    Attributes:
        lr: step size of the anchor's encoder and head.
        metadata_lr: step size of everything else (``dp_group``).
        image_weight, metadata_weight: a_I and a_M of (3).
        modality_dropout, field_dropout: p and q of (4).
    """

    epochs: int = 1
    batch_size: int = 64
    lr: float = 1e-4
    metadata_lr: float = 1e-3
    image_weight: float = 1.0
    metadata_weight: float = 1.0
    modality_dropout: float = 0.3
    field_dropout: float = 0.1

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        check_joint(self)
        require(0.0 < self.metadata_lr < 10.0, "metadata_lr", "in (0, 10)", self.metadata_lr)
        for name in ("image_weight", "metadata_weight"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("modality_dropout", "field_dropout"):
            require(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        # Scores of the fused head would set the step size of the film's encoder.
        require(self.balance == "none" or self.mode == "joint", "balance", "none", self.balance)
        require(self.head_lr == 0, "head_lr", "0: metadata_lr is that of the heads", self.head_lr)
        refuse_idle(self)

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        return contract_of(self, study)

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """E epochs of (3), or of (6): first the film's branch, then all else on its embeddings."""
        study, anchor = patients.study, anchor_of(self, patients.study)
        model, start = self._opened(patients, state)
        losses = task_losses(patients, self)
        names = [n for n, _ in model.named_parameters()]
        if self.mode == "isolated" and isinstance(model, JointModel):
            image = sorted(set(names) - set(dp_group(names, anchor)))
            alone = image_loss(model, losses, anchor)
            fitted = self._fit(model, image, alone, patients, t, "train")
            model.frozen = True
            rest = self._loss(model, losses, study, image=0.0)
            self._fit(model, dp_group(names, anchor), rest, patients, t, "joint")
        else:
            fitted = self._fit(model, names, self._loss(model, losses, study), patients, t, "train")
        model.eval()
        now = tensors_of(model)
        update = difference({n: now[n] for n in sorted(start)}, start)
        metrics = training_metrics(fitted) | self._validation(model, patients, anchor)
        return Trained(Update(update, announced(patients)), {}, metrics)

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """Nothing is personal."""
        return Trained(Update({}), personal)

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """Class probabilities of a split by the fused head, or by the rival's rule."""
        model, _ = self._opened(patients, state)
        return predictions(model, patients, split, filled=self._filled(patients.study))

    def _opened(self, patients: Patients, state: State) -> tuple[Model, Tensors]:
        """The site's model on the broadcast weights, and these."""
        with torch.device("meta"):  # filled below
            model = model_of(self, patients.study, patients.modalities)
        return model, placed(model, patients, lambda name: True, state, {})[1]

    def _filled(self, study: Study) -> Callable[[Batch], Batch]:
        """What a model is shown of a batch: ``early`` needs every modality."""
        return (lambda b: zero_filled(b, study)) if self.mode == "early" else (lambda b: b)

    def _loss(self, model: Model, losses: Losses, study: Study, **weights: float) -> BatchLoss:
        """(3) with (4)."""
        anchor, filled = anchor_of(self, study), self._filled(study)
        heads_only = self.mode in ("late", "image_only")
        weighed = {
            "fused": 0.0 if heads_only else 1.0,
            "image": self.image_weight if self.mode != "image_only" else 1.0,
            "metadata": self.metadata_weight,
        }
        chance = 0.0 if heads_only else self.modality_dropout

        def batch_loss(batch: Batch) -> Tensor:
            if model.training:
                batch = dropped(batch, anchor, modality=chance, fields=self.field_dropout)
            output = model(filled(batch))
            return joint_loss(output, batch.labels, losses, anchor, **(weighed | weights))

        return batch_loss

    def _fit(
        self,
        model: Model,
        names: Iterable[str],
        batch_loss: BatchLoss,
        patients: Patients,
        t: int,
        part: str,
    ) -> Fit:
        """Local epochs over these weights only, seeded by study, site, round and ``part``."""
        study = patients.study
        rest = set(dp_group(names, anchor_of(self, study)))
        named = dict(model.named_parameters())
        lr = learning_rate(self, t)
        groups = encoder_groups({n: named[n] for n in names if n not in rest}, lr)
        own = self.metadata_lr * lr / self.lr
        groups += encoder_groups({n: named[n] for n in names if n in rest}, own)
        if not groups:  # images alone at a site without any
            return Fit(float("nan"), 0)
        with seeded(study.seed, patients.site, t, part) as generator:
            optimiser = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)
            return train_epochs(model.train(), optimiser, batch_loss, patients, self, generator)

    def _validation(self, model: Model, patients: Patients, anchor: str) -> dict[str, float]:
        """Scores that may be told; under (6) those of the film's own head, free of metadata."""
        if self.mode == "isolated" and isinstance(model, JointModel):
            if anchor not in model.enc:
                return {}
            logits = image_logits(model, anchor)
            found = predict(logits, patients, "validation")[0]
        else:
            filled = self._filled(patients.study)
            found = predictions(model, patients, "validation", filled=filled)
        return validation_scores(found, patients)


def image_logits(model: JointModel, anchor: str) -> Callable[[Batch], Tensor]:
    """g_I(z_I), reading nothing but films."""
    return lambda batch: model.head[anchor](encoded(model.enc[anchor], batch, anchor))


def image_loss(model: JointModel, losses: Losses, anchor: str) -> BatchLoss:
    """CE(g_I(z_I), y) of the patients with a film.  (6)"""
    logits = image_logits(model, anchor)
    return lambda batch: losses(logits(batch), batch.labels) * batch.present[anchor]


@dataclass(frozen=True, kw_only=True)
class Server(Joint):
    """The coordinator's half: (5)."""

    desk: Desk = field(default_factory=Desk, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_joint(self)

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        return contract_of(self, study)

    def initial(self, study: Study) -> State:
        """Weights drawn from the study's seed."""
        return State(initial_of(self, study))

    def begin(self, study: Study, state: State, t: int) -> None:
        """Open round ``t``."""
        self.desk.open(self.contract(study), state, t)

    def accept(self, site: str, update: Update) -> None:
        """Fold one update; a second of the same site is refused."""
        self.desk.round.accept(site, update, "n_k")

    def finish(self) -> State:
        """The next state; without updates the old tensors, bit for bit."""
        return self.desk.close(lambda opened: opened.folded())
