"""One anchor modality (a chest film) joined with others (metadata, laboratory values) in one space.

Every encoder ends in the same latent length D; fusion adds the others to the anchor's z_I, and each
modality keeps a head of its own beside the fused one. Late fusion, its rival, has only those.

    enc.<m>.*  encoder and projection      head.<m>.*  head of one modality      head.fused.*
    fuse.gate.<m>.*  W_m of gated fusion   fuse.missing.<m>.*  what stands for an absent m
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyclinic import models
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.models.multimodal import FUSED, Output, encoded, fused_head, logits_of
from polyclinic.models.settings import Token
from polyclinic.study import Study

Joining = Literal["gated", "concat", "mean"]
JOININGS: tuple[Joining, ...] = ("gated", "concat", "mean")
Embeddings = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """How modalities are joined.

    Attributes:
        anchor: modality that the others are added to.
        joining: ``gated``, ``concat`` or ``mean``.
        hidden: width of the fused head's hidden layer; 0 makes it linear.
        dropout: after that layer.
        isolated: the fused head sees z_I without a gradient, so that nothing of the others reaches
            the anchor's encoder.
    """

    anchor: str
    joining: Joining = "gated"
    hidden: int = 128
    dropout: float = 0.25
    isolated: bool = False


class Gate(nn.Linear):
    """W_m of a gate that starts almost shut, so that an untrained z_m hardly disturbs z_I."""

    def reset_parameters(self) -> None:
        """Draw the start; σ(-2) is .12."""
        super().reset_parameters()
        nn.init.constant_(self.bias, -2.0)


class Gated(nn.Module):
    """z = z_I + Σ_m present_m σ(W_m [z_I, z_m]) z_m; without the others exactly z_I.

    A learned token stands for an absent anchor.
    """

    def __init__(self, dim: int, anchor: str, others: tuple[str, ...], held: set[str]) -> None:
        super().__init__()
        self.anchor, self.others, self.width = anchor, others, dim
        self.missing = nn.ModuleDict({anchor: Token(dim)})
        self.gate = nn.ModuleDict({m: Gate(2 * dim, dim) for m in others if m in held})

    def forward(self, h: Embeddings, present: Embeddings, zero: Tensor) -> Tensor:
        """(B, D) from embeddings and presence by modality; ``zero`` is (B, D)."""
        z = start = zero + self.missing[self.anchor]()
        if self.anchor in h:
            z = start = torch.where(present[self.anchor][:, None], h[self.anchor], start)
        for m, gate in self.gate.items():
            if m in h:
                opened = torch.sigmoid(gate(torch.cat([start, h[m]], dim=1))) * h[m]
                z = z + torch.where(present[m][:, None], opened, zero)
        joined: Tensor = z
        return joined


class Concat(nn.Module):
    """[z_I, z_m or e_m, present_m, ...]: a learned token e_m stands in an empty slot."""

    def __init__(self, dim: int, anchor: str, others: tuple[str, ...]) -> None:
        super().__init__()
        self.anchor, self.others = anchor, others
        self.width = dim * (1 + len(others)) + len(others)
        self.missing = nn.ModuleDict({m: Token(dim) for m in (anchor, *others)})

    def forward(self, h: Embeddings, present: Embeddings, zero: Tensor) -> Tensor:
        """(B, (1 + K) D + K)."""
        nobody = torch.zeros(zero.shape[0], dtype=torch.bool, device=zero.device)
        parts = []
        for m in (self.anchor, *self.others):
            there = present.get(m, nobody)[:, None]
            parts.append(torch.where(there, h.get(m, zero), self.missing[m]()))
            if m != self.anchor:
                parts.append(there.to(zero))
        return torch.cat(parts, dim=1)


class Mean(nn.Module):
    """Mean of the embeddings of the modalities a patient has; zero for one without any."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim

    def forward(self, h: Embeddings, present: Embeddings, zero: Tensor) -> Tensor:
        """(B, D)."""
        if not h:
            return zero
        total = torch.stack([torch.where(present[m][:, None], h[m], zero) for m in h]).sum(0)
        count = torch.stack([present[m] for m in h]).sum(0)  # (B,)
        return total / count.clamp(min=1)[:, None]


class JointModel(nn.Module):
    """Encoders, fusion, a fused head and a head for each modality a site holds.

    Guarantees:
    - The output does not depend on what stands where ``present`` or ``fields`` is False.
    - ``gated`` and ``mean`` without other modalities: the fused feature is z_I, bit for bit.
    - ``isolated``: the fused logits have no gradient at the anchor's encoder.
    - A patient without any modality gets a finite output.
    """

    def __init__(self, study: Study, held: tuple[str, ...], settings: JointSettings) -> None:
        super().__init__()
        refuse_fused(study)
        self.settings, self.dim, self.frozen = settings, study.embedding, False
        others = tuple(m for m in sorted(study.modalities) if m != settings.anchor)
        self.enc = encoders(study, held)
        self.fuse = _fusion(settings, study.embedding, others, set(held))
        out = logits_of(study)
        heads: dict[str, nn.Module] = {m: nn.Linear(self.dim, out) for m in held}
        width = int(self.fuse.width)
        heads[FUSED] = fused_head(width, out, settings.hidden, settings.dropout)
        self.head = nn.ModuleDict(heads)

    def embed(self, batch: Batch) -> tuple[Embeddings, Embeddings]:
        """Embeddings (B, D), zero where absent, and presence (B,), by modality."""
        held = [m for m in self.enc if m in batch.inputs]
        h = {}
        for m in held:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._still(m)):
                h[m] = encoded(self.enc[m], batch, m)
        return h, {m: batch.present[m] for m in held}

    def feature(self, h: Embeddings, present: Embeddings, like: Tensor) -> Tensor:
        """z, what the fused head reads; (B, width). ``like`` gives B and the device."""
        anchor = self.settings.anchor
        if self.settings.isolated and anchor in h:
            h = {**h, anchor: h[anchor].detach()}
        zero = torch.zeros(like.shape[0], self.dim, device=like.device)
        joined: Tensor = self.fuse(h, present, zero)
        return joined

    def forward(self, batch: Batch) -> Output:
        """Embeddings and the logits of every head."""
        h, present = self.embed(batch)
        fused = self.head[FUSED](self.feature(h, present, batch.labels))
        return Output(h, present, fused, {m: self.head[m](v) for m, v in h.items()})

    def train(self, mode: bool = True) -> "JointModel":
        """As usual, except that a ``frozen`` anchor stays as it predicts."""
        super().train(mode)
        if self.frozen and self.settings.anchor in self.enc:
            self.enc[self.settings.anchor].eval()
        return self

    def _still(self, modality: str) -> bool:
        return self.frozen and modality == self.settings.anchor


class LateModel(nn.Module):
    """Encoders with a head each; ``fused`` are the logits of the mean of their probabilities.

    With the anchor as its only modality this is the model of images alone. A patient without any
    modality gets even odds.
    """

    def __init__(self, study: Study, held: tuple[str, ...]) -> None:
        super().__init__()
        refuse_fused(study)
        self.out = logits_of(study)
        self.exclusive = self.out > 1 and not study.task.multi_label
        self.enc = encoders(study, held)
        self.head = nn.ModuleDict({m: nn.Linear(study.embedding, self.out) for m in held})

    def forward(self, batch: Batch) -> Output:
        """Embeddings and the logits of every head."""
        held = [m for m in self.enc if m in batch.inputs]
        h = {m: encoded(self.enc[m], batch, m) for m in held}
        present = {m: batch.present[m] for m in held}
        logits = {m: self.head[m](v) for m, v in h.items()}
        if not held:
            fused = torch.zeros(batch.size, self.out, device=batch.labels.device)
        else:
            stacked = torch.stack([logits[m] for m in held])  # (M, B, L)
            there = torch.stack([present[m] for m in held])  # (M, B)
            fused = mean_probability_logits(stacked, there, exclusive=self.exclusive)
        return Output(h, present, fused, logits)


def mean_probability_logits(logits: Tensor, there: Tensor, *, exclusive: bool) -> Tensor:
    """Logits (B, L) of the mean over m of the probabilities that logits (M, B, L) stand for.

    Only modalities in ``there`` (M, B) count; a patient without any gets zeros.

    Args:
        exclusive: the L logits share one softmax; else each has a sigmoid of its own.
    """
    absent = ~there[..., None]  # (M, B, 1)

    def log_mean(log_p: Tensor) -> Tensor:
        # A large finite number, not -inf, whose gradient in an all-absent row would be NaN. The
        # count is left out: it cancels in a difference and in a softmax.
        return torch.logsumexp(log_p.masked_fill(absent, -1e30), dim=0)

    if exclusive:
        found = log_mean(F.log_softmax(logits, dim=-1))
    else:
        found = log_mean(F.logsigmoid(logits)) - log_mean(F.logsigmoid(-logits))
    return torch.where(there.any(0)[:, None], found, 0.0)


def encoders(study: Study, held: tuple[str, ...]) -> nn.ModuleDict:
    """Encoders of these modalities, from the one registry every model shares."""
    return nn.ModuleDict({m: models.build(m, study.modalities[m], study.embedding) for m in held})


def refuse_fused(study: Study) -> None:
    """Refuse a modality whose head would be the joint one.

    Raises:
        StudyError: there is one.
    """
    if FUSED in study.modalities:
        raise StudyError(
            expected="modality names other than 'fused', which names the joint head",
            got="a modality called 'fused'",
            remedy="rename it in study.json",
        )


def _fusion(
    settings: JointSettings, dim: int, others: tuple[str, ...], held: set[str]
) -> Gated | Concat | Mean:
    if settings.joining == "gated":
        return Gated(dim, settings.anchor, others, held)
    return Concat(dim, settings.anchor, others) if settings.joining == "concat" else Mean(dim)
