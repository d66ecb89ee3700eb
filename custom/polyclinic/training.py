"""The local loop: seeded, interruptible, and loud when numbers run away.

Nothing here depends on the global random state: a fit forks it, seeds it from named parts and puts
it back, so that the same site, round and seed give the same weights wherever they run.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.device import here
from polyclinic.errors import StudyError, TrainingAborted, TrainingDiverged
from polyclinic.exchange import Tensors
from polyclinic.models.multimodal import Output
from polyclinic.objectives.task import probabilities

Fusion = Literal["fused", "unimodal", "both"]
BatchLoss = Callable[[Batch], Tensor]
EVALUATION_BATCH = 256

_abort: ContextVar[Callable[[], bool] | None] = ContextVar("abort", default=None)


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """Settings of local training that every algorithm's client has; the defaults are FedMM's.

    Attributes:
        epochs: E, passes over the training patients in a round.
        batch_size: patients per step.
        lr: Adam's step size.
        head_lr: the same for personal tensors; 0 takes ``lr``.
        weight_decay: decoupled (AdamW); 0 is plain Adam.
        clip_norm: largest gradient norm of a step, and a step whose norm is not finite is left out
            and counted; 0 does neither.
        decay_rounds: cosine decay of the step size over this many rounds; 0 keeps it constant.
        class_balance: weigh patients so that every class has the same total weight.
        label_smoothing: share of the label spread evenly over the classes.
        keep_optimiser: a site keeps Adam's moments of its personal tensors between rounds.
        select_epoch: keep the epoch of the round (its start included) with the lowest loss on the
            site's validation patients.
        balance: ``miles`` slows the encoder of a modality that dominates the joint head, at the
            end of every local epoch (``polyclinic.objectives.miles``); nothing of it is sent.
        balance_tau: τ, the gap in utilisation above which it does.
        balance_mu: μ in (0, 1], what the dominant encoder's step size is multiplied by.
        balance_on: patients whose scores decide.
    """

    epochs: int = 3
    batch_size: int = 32
    lr: float = 1e-3
    head_lr: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    decay_rounds: int = 0
    class_balance: bool = False
    label_smoothing: float = 0.0
    keep_optimiser: bool = True
    select_epoch: bool = False
    balance: Literal["none", "miles"] = "none"
    balance_tau: float = 0.2
    balance_mu: float = 0.5
    balance_on: Literal["validation", "train"] = "validation"
    # Layers that normalise over a batch need two patients in it.
    least_batch: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "decay_rounds"):
            require(type(getattr(self, name)) is int, name, "a whole number", getattr(self, name))
        require(self.epochs >= 0, "epochs", "0 or more", self.epochs)
        least = self.least_batch
        require(self.batch_size >= least, "batch_size", f"{least} or more", self.batch_size)
        require(0.0 < self.lr < 10.0, "lr", "in (0, 10)", self.lr)
        require(0.0 <= self.head_lr < 10.0, "head_lr", "in [0, 10)", self.head_lr)
        require(self.weight_decay >= 0.0, "weight_decay", "0 or more", self.weight_decay)
        require(self.clip_norm >= 0.0, "clip_norm", "0 or more", self.clip_norm)
        require(self.decay_rounds >= 0, "decay_rounds", "0 or more", self.decay_rounds)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        require(self.balance in ("none", "miles"), "balance", "none or miles", self.balance)
        require(self.balance_tau >= 0.0, "balance_tau", "0 or more", self.balance_tau)
        require(0.0 < self.balance_mu <= 1.0, "balance_mu", "in (0, 1]", self.balance_mu)
        require(
            self.balance_on in ("validation", "train"),
            "balance_on",
            "validation or train",
            self.balance_on,
        )


def require(holds: bool, setting: str, expected: str, got: object) -> None:
    """Raise a StudyError that names the setting unless ``holds``.

    A number is repeated. A text is not: the error leaves the site, and FLARE may have put something
    of the site's into it.
    """
    if not holds:
        told = str(got) if isinstance(got, int | float) else f"another {type(got).__name__}"
        raise StudyError(
            expected=f"{setting} {expected}", got=told, remedy=f"correct '{setting}' in the job"
        )


def seed_for(*parts: object) -> int:
    """A seed in [0, 2^63) that depends on every part and on nothing else."""
    digest = hashlib.sha256("/".join(str(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") & (2**63 - 1)


@contextmanager
def seeded(*parts: object) -> Iterator[torch.Generator]:
    """Torch's random state seeded from ``parts``, put back afterwards; and a generator too."""
    seed = seed_for(*parts)
    device = here()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


@contextmanager
def abort_when(stop: Callable[[], bool]) -> Iterator[None]:
    """Ask ``stop`` before every step of every fit inside this context."""
    token = _abort.set(stop)
    try:
        yield
    finally:
        _abort.reset(token)


def initialise(model: nn.Module, groups: Sequence[str], *parts: object) -> None:
    """Draw fresh weights, each group (``enc.cnv``, ``head.fused``) from its own seed.

    A group's start therefore does not depend on which other groups a site or the server holds. An
    encoder whose study names weights to start from loads them over what was drawn.

    Raises:
        SiteError: those weights are not here.
    """
    for group in groups:
        with seeded(*parts, group):
            for method in ("reset_parameters", "start_from_weights"):
                for module in model.get_submodule(group).modules():
                    fill = getattr(module, method, None)
                    if callable(fill):
                        fill()


def learning_rate(settings: LocalTraining, t: int) -> float:
    """lr, or lr (1 + cos(π (t-1) / T)) / 2 with T = ``decay_rounds``."""
    if not settings.decay_rounds:
        return settings.lr
    done = min(1.0, (t - 1) / settings.decay_rounds)
    # A step size of exactly 0 would make the last rounds do nothing; 1 % of lr is left.
    return settings.lr * max(0.01, 0.5 * (1.0 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Fit:
    """What a fit reports: mean loss of its last epoch, and patients skipped as not finite."""

    loss: float
    skipped: int


class TrainingBatches(Protocol):
    """What a fit needs of ``Patients``."""

    def batches(
        self, split: SplitName, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Batches of a split."""
        ...


def fit(
    optimiser: torch.optim.Optimizer,
    batch_loss: BatchLoss,
    patients: TrainingBatches,
    settings: LocalTraining,
    generator: torch.Generator,
    epochs: int,
) -> Fit:
    """Minimise the mean of ``batch_loss`` over the training patients.

    A patient whose loss is not finite is left out of the step and counted.

    Raises:
        TrainingDiverged: nobody in a batch of several has a finite loss, nobody at all in an epoch
            of single patients, or a weight stopped being finite.
        TrainingAborted: the surrounding ``abort_when`` said so.
    """
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    loss_of_epoch, skipped = float("nan"), 0
    for _ in range(epochs):
        total, seen = 0.0, 0
        for batch in patients.batches("train", settings.batch_size, generator):
            _stop_if_asked()
            batch = batch.to(here())
            optimiser.zero_grad(set_to_none=True)
            losses = batch_loss(batch)
            loss = losses.mean()
            value = loss.item()
            if not math.isfinite(value):
                losses = _finite_part(batch_loss, batch, losses, alone=settings.batch_size == 1)
                skipped += batch.size - losses.shape[0]
                if not losses.numel():
                    continue  # one bad scan costs its own step
                loss, value = losses.mean(), float(losses.mean().item())
            loss.backward()  # type: ignore[no-untyped-call]
            if settings.clip_norm:
                norm = nn.utils.clip_grad_norm_(weights, settings.clip_norm)
                if not bool(torch.isfinite(norm)):  # a finite loss does not promise a finite slope
                    skipped += losses.shape[0]
                    continue
            optimiser.step()
            total += value * losses.shape[0]
            seen += losses.shape[0]
        if skipped and not seen:
            raise _nobody_finite("an epoch", skipped)
        loss_of_epoch = total / max(seen, 1)
    if not all(bool(torch.isfinite(w).all()) for w in weights):
        raise TrainingDiverged(
            expected="finite weights after local training",
            got="NaN or infinity",
            remedy="lower lr, or set clip_norm",
        )
    return Fit(loss_of_epoch, skipped)


def _stop_if_asked() -> None:
    stop = _abort.get()
    if stop is not None and stop():
        raise TrainingAborted(
            expected="local training to run to its end",
            got="a request to stop",
            remedy="nothing is to be done; the round was ended",
        )


def _nobody_finite(where: str, count: int) -> TrainingDiverged:
    return TrainingDiverged(
        expected=f"a finite loss for at least one patient of {where}",
        got=f"none of {count}",
        remedy="lower lr, set clip_norm, or run 'polyclinic data check'",
    )


def _finite_part(batch_loss: BatchLoss, batch: Batch, losses: Tensor, *, alone: bool) -> Tensor:
    """Losses of the patients for whom they are finite, computed without the others.

    Computed again rather than masked: the gradient of a masked NaN is NaN. Of a batch of one
    patient ``alone`` there may be none left.
    """
    keep = torch.isfinite(losses.detach())
    if not bool(keep.any()):
        if alone:
            return losses[:0]
        raise _nobody_finite("a batch", batch.size)
    again = batch_loss(batch.taken(keep))
    return again[torch.isfinite(again.detach())]


def predict(
    forward: Callable[[Batch], Tensor], patients: Patients, split: SplitName
) -> tuple[Tensors, Tensor]:
    """``probability`` (n, C) and ``label`` (n,) of a split in its order, and the logits (n, L).

    Of a multi-label task both are (n, L), the label NaN where it is unknown.
    """
    task = patients.study.task
    logits, labels = [], []
    with torch.no_grad():
        for batch in patients.batches(split, EVALUATION_BATCH):
            logits.append(forward(batch.to(here())).cpu())
            labels.append(batch.labels)
    if not logits:
        empty = np.zeros((0, len(task.names)), dtype=np.float32)
        return {"probability": empty, "label": patients.labels(split).numpy()}, torch.zeros(0, 1)
    joined = torch.cat(logits)
    probability = probabilities(joined, multi_label=task.multi_label).numpy().astype(np.float32)
    return {"probability": probability, "label": torch.cat(labels).numpy()}, joined


def fused_logits(output: Output, fusion: Fusion) -> Tensor:
    """Logits (B, L) by the chosen road.

    ``unimodal`` averages the heads of the modalities a patient has (late fusion), ``both``
    averages that with the fused head. A patient without any modality gets the fused logits.
    """
    if fusion == "fused" or not output.unimodal:
        return output.fused
    names = sorted(output.unimodal)
    there = torch.stack([output.present[m] for m in names]).to(output.fused)[..., None]  # (M, B, 1)
    heads = torch.stack([output.unimodal[m] for m in names])  # (M, B, L)
    count = there.sum(0)
    late = (heads * there).sum(0) / count.clamp(min=1.0)
    chosen = late if fusion == "unimodal" else 0.5 * (late + output.fused)
    return torch.where(count > 0, chosen, output.fused)
