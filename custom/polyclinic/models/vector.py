"""Encoders of a fixed panel of numbers: copy number, expression, mutations, labs, metadata.

``snn`` is the self-normalising network that FedMM (arXiv 2402.15858) takes for CNV: two hidden
layers with ELU and AlphaDropout(0.25), then a last layer that gives the embedding. ``mlp_norm``
with ``missing: token`` and ``presence: true`` is the encoder of patient metadata in
``polyclinic.algorithms.cxr_metadata``: it reads [b·v + (1 - b)·τ, b].
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polyclinic.models.settings import EncoderSettings, Token, embedding_norm, parse
from polyclinic.study import Modality


class VectorSettings(EncoderSettings):
    """Settings of a vector encoder.

    Attributes:
        network: ``snn`` ELU and AlphaDropout, ``mlp`` ReLU and Dropout, ``mlp_norm`` LayerNorm,
            GELU and Dropout, ``linear`` no hidden layer.
        hidden: widths of the hidden layers.
        dropout: after each hidden layer.
        input_dropout: share of panel fields hidden from a patient in training.
        clip: standardised values beyond ±clip count as ±clip; 0 does not clip.
        missing: what stands for an absent field: ``zero``, or a learned ``token`` τ per field.
        presence: tell the encoder which fields are there, as F more inputs.
    """

    network: Literal["snn", "mlp", "mlp_norm", "linear"] = "snn"
    hidden: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        default=(256, 256), max_length=8
    )
    dropout: float = Field(default=0.25, ge=0.0, lt=1.0)
    input_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    clip: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    missing: Literal["zero", "token"] = "zero"
    presence: bool = False


class VectorEncoder(nn.Module):
    """Maps (B, F) values with (B, F) presence to (B, D); an absent field counts as 0, or as τ.

    Zero is the mean of a standardised feature, so an absent field says "as usual".

    Guarantees:
    - What stands where ``fields`` is False changes nothing.
    """

    def __init__(self, settings: VectorSettings, width: int, embedding: int) -> None:
        super().__init__()
        wide = width * (2 if settings.presence else 1)
        sizes = (wide, *(settings.hidden if settings.network != "linear" else ()))
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers.append(nn.Linear(before, after))
            layers += _activation(settings.network, after)
            if settings.dropout:
                snn = settings.network == "snn"
                layers.append((nn.AlphaDropout if snn else nn.Dropout)(settings.dropout))
        self.tau = Token(width) if settings.missing == "token" else None
        self.input_dropout = nn.Dropout(settings.input_dropout)
        self.clip, self.presence = settings.clip, settings.presence
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(sizes[-1], embedding)
        self.norm = embedding_norm(settings.norm, embedding)

    def forward(self, x: Tensor, fields: Tensor) -> Tensor:
        """(B, F), (B, F) bool -> (B, D)."""
        x = torch.where(fields, x, x.new_zeros(()))
        if self.clip:
            x = x.clamp(-self.clip, self.clip)
        if self.tau is not None:
            x = torch.where(fields, x, self.tau.value)
        x = self.input_dropout(x)
        if self.presence:
            x = torch.cat([x, fields.to(x)], dim=1)  # (B, 2F)
        out: Tensor = self.norm(self.out(self.hidden(x)))
        return out


def _activation(network: str, width: int) -> list[nn.Module]:
    """What follows a hidden linear layer."""
    if network == "mlp_norm":
        return [nn.LayerNorm(width), nn.GELU()]
    return [nn.ELU() if network == "snn" else nn.ReLU()]


def build(name: str, modality: Modality, embedding: int) -> nn.Module:
    """A vector encoder from a study's settings."""
    return VectorEncoder(parse(VectorSettings, name, modality.encoder), modality.width, embedding)
