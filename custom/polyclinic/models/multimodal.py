"""The model of one site: an encoder for each modality it holds, and heads on their embeddings.

This file owns the parameter names, and the names are the contract: ``enc.<modality>.*``,
``head.<modality>.*``, ``head.fused.*``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyclinic import models
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.study import Study

FUSED = "fused"


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """How a site's classifier is built.

    Attributes:
        slots: modalities the fused head has room for, in order.
        hidden: width of its hidden layer; 0 makes it linear.
        dropout: after the hidden layer.
        presence_bits: tell the head which slots are filled.
        unimodal: also a linear head on each modality's embedding.
        zero_fill: encode absent modalities as zero inputs instead of masking their embeddings
            (Multi-FedAvg); the modality then has an encoder at every site.
    """

    slots: tuple[str, ...]
    hidden: int = 128
    dropout: float = 0.25
    presence_bits: bool = True
    unimodal: bool = False
    zero_fill: bool = False


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        embeddings: h^(k) by modality; (B, D), zero for patients without it.
        present: who has the modality; (B,) bool.
        fused: logits of the fused head; (B, L), see ``logits_of``.
        unimodal: logits by modality; (B, L).
    """

    embeddings: dict[str, Tensor]
    present: dict[str, Tensor]
    fused: Tensor
    unimodal: dict[str, Tensor]


def logits_of(study: Study) -> int:
    """L: one logit for two classes (binary cross-entropy), else one per class; one per label."""
    return study.task.logits


class SiteModel(nn.Module):
    """Encoders for ``modalities``, a fused head and, if wished, unimodal heads.

    Guarantees:
    - The output does not depend on what stands where ``present`` or ``fields`` is False.
    - A patient without any modality gets a finite output.
    - With masking (not ``zero_fill``) the gradient of an encoder is exactly 0 in a batch in which
      nobody has its modality.
    """

    def __init__(self, study: Study, modalities: tuple[str, ...], head: HeadSettings) -> None:
        super().__init__()
        if FUSED in study.modalities:
            raise StudyError(
                expected="modality names other than 'fused', which names the joint head",
                got="a modality called 'fused'",
                remedy="rename it in study.json",
            )
        self.settings, self.dim = head, study.embedding
        self.enc = nn.ModuleDict(
            {m: models.build(m, study.modalities[m], study.embedding) for m in modalities}
        )
        width, out = self.dim * len(head.slots), logits_of(study)
        width += len(head.slots) * head.presence_bits
        heads: dict[str, nn.Module] = {}
        if head.unimodal:
            heads = {m: nn.Linear(self.dim, out) for m in modalities}
        heads[FUSED] = fused_head(width, out, head.hidden, head.dropout)
        self.head = nn.ModuleDict(heads)

    def embed(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Embeddings (B, D) and presence (B,), by modality."""
        embeddings, presence = {}, {}
        for m, encoder in self.enc.items():
            if m not in batch.inputs:
                if not self.settings.zero_fill:
                    continue
                raise StudyError(
                    expected=f"a batch with '{m}', zero where absent",
                    got="a batch without it",
                    remedy="fill absent modalities before the forward pass",
                )
            masked = not self.settings.zero_fill
            embeddings[m], presence[m] = encoded(encoder, batch, m, masked), batch.present[m]
        return embeddings, presence

    def classify(
        self,
        embeddings: dict[str, Tensor],
        present: dict[str, Tensor],
        shown: dict[str, Tensor] | None = None,
    ) -> Output:
        """Logits of every head from embeddings.

        Args:
            shown: for modality dropout, which of the present ones the fused head may see.
        """
        some = next(iter(embeddings.values()))
        visible, bits_of = embeddings, present
        if shown is not None:
            visible = {m: h * shown[m][:, None] for m, h in embeddings.items()}
            bits_of = shown
        zero = some.new_zeros(some.shape)
        slots = self.settings.slots
        parts = [visible.get(m, zero) for m in slots]
        if self.settings.presence_bits:
            nobody = some.new_zeros(some.shape[0])
            bits = [bits_of[m].to(some) if m in bits_of else nobody for m in slots]
            parts.append(torch.stack(bits, dim=1))  # (B, |slots|)
        fused = self.head[FUSED](torch.cat(parts, dim=1))
        uni = {m: self.head[m](h) for m, h in embeddings.items() if m in self.head}
        return Output(embeddings, present, fused, uni)

    def forward(self, batch: Batch) -> Output:
        """Embeddings and logits of a batch."""
        return self.classify(*self.embed(batch))


def encoded(encoder: nn.Module, batch: Batch, modality: str, masked: bool = True) -> Tensor:
    """Embeddings (B, D) of one modality; with ``masked`` zero for patients without it.

    An encoder marked ``present_only`` is shown only the patients who have the modality.
    """
    x, fields, there = batch.inputs[modality], batch.fields[modality], batch.present[modality]
    if bool(there.all()):
        whole: Tensor = encoder(x, fields)
        return whole
    if masked and getattr(encoder, "present_only", False) and bool(there.any()):
        some: Tensor = encoder(x[there], fields[there])  # (b, D)
        return some.new_zeros(there.shape[0], some.shape[1]).index_put((there,), some)
    h: Tensor = encoder(x, fields & there.reshape(-1, *[1] * (fields.dim() - 1)))
    return torch.where(there[:, None], h, h.new_zeros(())) if masked else h


def fused_head(width: int, out: int, hidden: int, dropout: float) -> nn.Module:
    """Linear-ReLU-Dropout-Linear, or one Linear when ``hidden`` is 0."""
    if not hidden:
        return nn.Sequential(nn.Linear(width, out))
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, out),
    )
