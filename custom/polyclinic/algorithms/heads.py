"""The heads of a site: which are trained, on what they are shown, and their loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polyclinic.data.batch import Batch, Patients
from polyclinic.device import here
from polyclinic.models.multimodal import Output, SiteModel
from polyclinic.objectives.task import class_weights, task_loss
from polyclinic.training import Fusion, LocalTraining, require

Losses = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How the heads of a site are trained and used.

    Attributes:
        fusion: predict with the ``fused`` head, the mean of the ``unimodal`` ones, or ``both``.
        fused_weight: weight of the fused head's loss in training, also if it does not predict.
        unimodal_weight: weight of the unimodal heads' losses beside it.
        modality_dropout: chance that a present modality is hidden from the fused head in training;
            one always stays.
    """

    fusion: Fusion = "fused"
    fused_weight: float = 1.0
    unimodal_weight: float = 1.0
    modality_dropout: float = 0.0


def check_heads(heads: HeadTraining, unimodal_heads: bool) -> None:
    """Refuse head settings that are out of range or that would do nothing."""
    require(
        heads.fusion in ("fused", "unimodal", "both"),
        "fusion",
        "fused, unimodal or both",
        heads.fusion,
    )
    require(
        heads.fusion == "fused" or unimodal_heads,
        "unimodal_heads",
        f"true, since fusion is '{heads.fusion}'",
        unimodal_heads,
    )
    require(heads.unimodal_weight >= 0, "unimodal_weight", "0 or more", heads.unimodal_weight)
    require(heads.fused_weight >= 0, "fused_weight", "0 or more", heads.fused_weight)
    require(
        heads.fused_weight > 0 or (unimodal_heads and heads.unimodal_weight > 0),
        "fused_weight",
        "above 0, or unimodal heads that are trained",
        heads.fused_weight,
    )
    require(
        0 <= heads.modality_dropout < 1, "modality_dropout", "in [0, 1)", heads.modality_dropout
    )


def training_output(model: SiteModel, batch: Batch, dropout: float) -> Output:
    """A forward pass in which the fused head may not see all present modalities."""
    embeddings, present = model.embed(batch)
    if not dropout or not model.training or len(embeddings) < 2:
        return model.classify(embeddings, present)
    names = sorted(embeddings)
    there = torch.stack([present[m] for m in names], dim=1)  # (B, M)
    shown = there & (torch.rand(there.shape, device=there.device) >= dropout)
    shown = torch.where(shown.any(1, keepdim=True), shown, there)
    return model.classify(embeddings, present, {m: shown[:, i] for i, m in enumerate(names)})


def heads_loss(output: Output, labels: Tensor, losses: Losses, heads: HeadTraining) -> Tensor:
    """Weighted task losses of all heads, per patient (B,).

    A modality's head learns from the patients who have the modality, and the part of a head that
    answers a label from those for whom the label is known.
    """
    total = heads.fused_weight * losses(output.fused, labels)
    for m, logits in output.unimodal.items():
        total = total + heads.unimodal_weight * losses(logits, labels) * output.present[m]
    return total


def task_losses(patients: Patients, settings: LocalTraining) -> Losses:
    """Per-patient task loss of logits (B, L) and labels, with the client's settings."""
    weights = None
    if settings.class_balance:
        classes = len(patients.study.task.classes)
        weights = class_weights(patients.labels("train"), classes).to(here())
    smoothing = settings.label_smoothing
    return lambda logits, labels: task_loss(logits, labels, weights, smoothing)
