"""What the clients of every algorithm share inside a hospital: open a model, train, pack."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from polyclinic.algorithms.balance import Balance, encoder_groups
from polyclinic.algorithms.moments import moments, restore_moments
from polyclinic.algorithms.wire import INITIAL, Architecture, head_settings, modalities_of
from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.device import here
from polyclinic.evaluation.metrics import scores, scores_of
from polyclinic.exchange import State, Tensors, Update, group_of
from polyclinic.models.multimodal import FUSED, HeadSettings, SiteModel
from polyclinic.models.tensors import (
    difference,
    from_personal,
    load,
    personal,
    require_bearable,
    tensors_of,
)
from polyclinic.study import Study
from polyclinic.training import (
    EVALUATION_BATCH,
    BatchLoss,
    Fit,
    Fusion,
    LocalTraining,
    fit,
    fused_logits,
    initialise,
    learning_rate,
    predict,
    seeded,
)

Filled = Callable[[Batch], Batch]


@dataclass
class SiteTask:
    """A model at work at one site: what is federated in it, and where it started.

    Attributes:
        shared: names that are federated; everything else is personal.
        start: their values as they were broadcast.
    """

    model: SiteModel
    shared: frozenset[str]
    start: Tensors
    memory: Tensors

    def optimiser(self, settings: LocalTraining, lr: float) -> torch.optim.AdamW:
        """AdamW over federated and personal weights; the latter with the moments they had."""
        named = dict(self.model.named_parameters())
        federated = [p for n, p in named.items() if n in self.shared]
        own = {n: p for n, p in named.items() if n not in self.shared}
        own_lr = settings.head_lr * lr / settings.lr if settings.head_lr else lr
        groups: list[dict[str, Any]] = [{"params": federated, "lr": lr}]
        if settings.balance != "none":
            groups = encoder_groups({n: p for n, p in named.items() if n in self.shared}, lr)
            groups += encoder_groups(own, own_lr)
        else:
            groups.append({"params": list(own.values()), "lr": own_lr})
        optimiser = torch.optim.AdamW(
            [g for g in groups if g["params"]], weight_decay=settings.weight_decay, fused=True
        )
        restore_moments(optimiser, own, self.memory)
        return optimiser

    def update(self, scalars: dict[str, float]) -> Update:
        """Differences of the federated tensors."""
        now = tensors_of(self.model)
        return Update(difference({n: now[n] for n in sorted(self.shared)}, self.start), scalars)

    def personal(self, optimiser: torch.optim.AdamW | None = None) -> Tensors:
        """Personal tensors, with the optimiser's moments for them."""
        now = tensors_of(self.model)
        kept = personal({n: v for n, v in now.items() if n not in self.shared})
        if optimiser is not None:
            named = self.model.named_parameters()
            kept |= moments(optimiser, {n: w for n, w in named if n not in self.shared})
        return kept


def open_keyed(
    half: Architecture, patients: Patients, state: State, kept: Tensors, *, own_head: bool
) -> SiteTask:
    """The encoders a site holds, with a fused head of its own or one shared with every site."""
    slots = patients.modalities if own_head else modalities_of(patients.study)
    head = head_settings(half, slots)

    def federated(name: str) -> bool:
        return not (own_head and name.startswith(f"head.{FUSED}."))

    return open_task(patients, patients.modalities, head, federated, state, kept)


def open_task(
    patients: Patients,
    modalities: tuple[str, ...],
    head: HeadSettings,
    federated: Callable[[str], bool],
    state: State,
    kept: Tensors,
) -> SiteTask:
    """The site's model with broadcast and personal tensors in place.

    A tensor that comes from neither is drawn from the study's seed; a personal one also from the
    site's name, so that hospitals do not share a head by accident.
    """
    with torch.device("meta"):  # every weight is filled below; drawing it twice would be waste
        model = SiteModel(patients.study, modalities, head)
    shared, start = placed(model, patients, federated, state, kept)
    return SiteTask(model, shared, start, kept)


class Site(Protocol):
    """What it takes to fill a model: no patients."""

    @property
    def site(self) -> str:
        """Its name."""
        ...

    @property
    def study(self) -> Study:
        """The study the model is for."""
        ...


def placed(
    model: nn.Module,
    patients: Site,
    federated: Callable[[str], bool],
    state: State,
    kept: Tensors,
) -> tuple[frozenset[str], Tensors]:
    """Fill a model that was made on the meta device; its federated names, and their values."""
    require_bearable(model)
    model.to_empty(device="cpu")
    study = patients.study
    names = [n for n, v in model.state_dict().items() if v.is_floating_point()]
    shared = frozenset(n for n in names if federated(n))
    broadcast = {n: v for n, v in state.tensors.items() if n in shared}
    mine = {n: v for n, v in from_personal(kept).items() if n in names and n not in shared}
    missing = [n for n in names if n not in broadcast and n not in mine]
    groups = sorted({group_of(n) for n in missing})
    personal_groups = {group_of(n) for n in missing if n not in shared and n.startswith("head.")}
    initialise(model, [g for g in groups if g not in personal_groups], study.seed, INITIAL)
    initialise(model, sorted(personal_groups), study.seed, INITIAL, patients.site)
    load(model, broadcast | mine)
    start = tensors_of(model)
    model.to(here())  # drawn on the CPU, so that every device starts from the same weights
    return shared, {n: start[n] for n in shared}


def predictions(
    model: nn.Module,
    patients: Patients,
    split: SplitName,
    fusion: Fusion = "fused",
    filled: Filled = lambda batch: batch,
) -> Tensors:
    """``probability`` and ``label`` of a split, see ``training.predict``, in eval mode."""
    model.eval()
    return predict(lambda batch: fused_logits(model(filled(batch)), fusion), patients, split)[0]


def validation_scores(found: Tensors, patients: Patients) -> dict[str, float]:
    """Metrics ``validation/*`` of predictions, as far as ``told_scores`` tells them."""
    return {f"validation/{k}": v for k, v in told_scores(found, patients, "validation").items()}


def told_scores(found: Tensors, patients: Patients, split: SplitName) -> dict[str, float]:
    """Scores of predictions of a split that may leave the site.

    A score over a handful of patients tells about those patients: there is none where a class
    has fewer patients than the site's smallest cell, none of a label of which a side has, and none
    of a region for which it is defined of fewer.
    """
    task = patients.study.task
    told = tellable(patients.people(split), patients.minimum_cell)
    if not task.multi_label:
        # Of several records of a patient, all but one say nothing of how many patients there are.
        again = patients.size(split) - patients.distinct(split)
        least = patients.minimum_cell + again
        return scores_of(found, task, least=least) if bool(told.all()) else {}
    kept = [i for i, shown in enumerate(told.tolist()) if shown]
    names = [task.names[i] for i in kept]
    return scores(found["probability"][:, kept], found["label"][:, kept], names)


def tellable(people: Tensor, minimum_cell: int) -> Tensor:
    """Where no group of patients is there but smaller than a cell: of all classes together (), or
    of each label (L,); bool."""
    fine: Tensor = (people == 0) | (people >= minimum_cell)
    return fine.all(dim=-1)


def train_round(
    task: SiteTask,
    patients: Patients,
    settings: LocalTraining,
    batch_loss: BatchLoss,
    t: int,
) -> tuple[Fit, torch.optim.AdamW]:
    """Local training of round ``t``, seeded by study, site and round."""
    with seeded(patients.study.seed, patients.site, t, "train") as generator:
        optimiser = task.optimiser(settings, learning_rate(settings, t))
        task.model.train()
        fitted = train_epochs(task.model, optimiser, batch_loss, patients, settings, generator)
    task.model.eval()
    return fitted, optimiser


def train_epochs(
    model: nn.Module,
    optimiser: torch.optim.AdamW,
    batch_loss: BatchLoss,
    patients: Patients,
    settings: LocalTraining,
    generator: torch.Generator,
) -> Fit:
    """Train all epochs; with ``select_epoch`` go back to the one with the lowest validation loss,
    with ``balance`` set the encoders' step sizes before each."""
    selects = settings.select_epoch and bool(patients.size("validation"))
    policy = Balance.of(settings, patients, optimiser)
    if not selects and policy is None:
        return fit(optimiser, batch_loss, patients, settings, generator, settings.epochs)
    best, kept = float("inf"), {}
    if selects:
        best, kept = validation_loss(model, patients, batch_loss), tensors_of(model)
    fitted = Fit(float("nan"), 0)
    for _ in range(settings.epochs):
        if policy is not None:
            model.eval()
            policy.set_rates(model)
        model.train()
        epoch = fit(optimiser, batch_loss, patients, settings, generator, 1)
        fitted = Fit(epoch.loss, fitted.skipped + epoch.skipped)
        if selects and (now := validation_loss(model, patients, batch_loss)) < best:
            best, kept = now, tensors_of(model)
    load(model, kept)
    return fitted


def validation_loss(model: nn.Module, patients: Patients, batch_loss: BatchLoss) -> float:
    """Mean loss over the validation patients in eval mode."""
    model.eval()
    with torch.no_grad():
        batches = patients.batches("validation", EVALUATION_BATCH)
        parts = [batch_loss(b.to(here())) for b in batches]
    return float(torch.cat(parts).mean())


def training_metrics(fitted: Fit) -> dict[str, float]:
    """Metrics of a fit that may leave the site."""
    metrics = {"train/loss": fitted.loss} if np.isfinite(fitted.loss) else {}
    return metrics | ({"quarantined/non_finite": float(fitted.skipped)} if fitted.skipped else {})
