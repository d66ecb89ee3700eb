"""Attention pooling of a bag of instance features, such as the patches of a whole-slide image.

Ilse, Tomczak, Welling, "Attention-based deep multiple instance learning", arXiv 1802.04712:
z = sum_n a_n h_n (Eq. 7), a = softmax_n(w^T tanh(V h_n)) (Eq. 8), gated: tanh(V h_n) *
sigmoid(U h_n) (Eq. 9). Sizes are those FedMM's code uses: (256 -> 512 ReLU) x 3, attention
512 -> 128 -> 1, 512 -> 512 ReLU, then the embedding.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polyclinic.models.settings import EncoderSettings, embedding_norm, parse
from polyclinic.study import Modality

Width = Annotated[int, Field(ge=1, le=8192)]


class BagSettings(EncoderSettings):
    """Settings of a bag encoder.

    Attributes:
        instance: widths of the layers each instance passes.
        attention: width of the attention layer.
        gated: Eq. 9 in place of Eq. 8.
        hidden: widths of the layers after pooling.
        dropout: after each of those layers, and after the instance layers.
        attention_scale: ``softmax``; ``sqrt_n`` divides the weights by sqrt(N) as FedMM's code
            does, so that large bags give small embeddings.
    """

    instance: tuple[Width, ...] = Field(default=(512, 512, 512), max_length=8)
    attention: Width = 128
    gated: bool = False
    hidden: tuple[Width, ...] = Field(default=(512,), max_length=8)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    attention_scale: Literal["softmax", "sqrt_n"] = "softmax"


def _layers(sizes: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Linear-ReLU(-Dropout) for each step of ``sizes``."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class BagEncoder(nn.Module):
    """Maps (B, N, d) instances with (B, N) presence to (B, D).

    Guarantees:
    - The order of instances and what stands in absent ones do not matter.
    - An empty bag gives a finite embedding.
    """

    def __init__(self, settings: BagSettings, width: int, embedding: int) -> None:
        super().__init__()
        inner = (width, *settings.instance)
        self.instance = _layers(inner, settings.dropout)
        self.attention_v = nn.Linear(inner[-1], settings.attention)
        self.attention_u = nn.Linear(inner[-1], settings.attention) if settings.gated else None
        self.attention_w = nn.Linear(settings.attention, 1)
        outer = (inner[-1], *settings.hidden)
        self.hidden = _layers(outer, settings.dropout)
        self.out = nn.Linear(outer[-1], embedding)
        self.norm = embedding_norm(settings.norm, embedding)
        self.scale = settings.attention_scale

    def attention(self, h: Tensor, fields: Tensor) -> Tensor:
        """Weights (B, N) over the present instances; they sum to 1, or to 0 in an empty bag."""
        a = torch.tanh(self.attention_v(h))  # (B, N, A)
        if self.attention_u is not None:
            a = a * torch.sigmoid(self.attention_u(h))  # Eq. 9
        score = self.attention_w(a).squeeze(-1)  # (B, N)
        # A large finite number, not -inf: softmax over an empty bag must not give NaN.
        score = score.masked_fill(~fields, torch.finfo(score.dtype).min)
        weight = torch.softmax(score, dim=1) * fields  # Eq. 8
        if self.scale == "sqrt_n":
            weight = weight / fields.sum(1, keepdim=True).clamp(min=1).sqrt()
        return weight

    def forward(self, x: Tensor, fields: Tensor) -> Tensor:
        """(B, N, d), (B, N) bool -> (B, D)."""
        h = self.instance(torch.where(fields[..., None], x, x.new_zeros(())))  # (B, N, H)
        z = torch.einsum("bn,bnh->bh", self.attention(h, fields), h)  # Eq. 7
        out: Tensor = self.norm(self.out(self.hidden(z)))
        return out


def build(name: str, modality: Modality, embedding: int) -> nn.Module:
    """A bag encoder from a study's settings."""
    return BagEncoder(parse(BagSettings, name, modality.encoder), modality.width, embedding)
