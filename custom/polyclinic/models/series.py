"""Encoders of hourly numbers with gaps: what was last seen, whether it is new, and how old it is.

Each step gives the network, by feature, the last observed value, the mask and the time since: the
inputs of GRU-D (Che et al., "Recurrent neural networks for multivariate time series with missing
values", arXiv 1606.01865) without its learnt decay. ``gru`` is a gated recurrent unit (Cho et al.,
arXiv 1406.1078) over them, ``tcn`` dilated causal convolutions (Bai et al., arXiv 1803.01271).

Both are made of Linear, Conv1d and GroupNorm only, without statistics over a batch, so that
per-sample gradients exist (Opacus' GradSampleModule accepts them, and ``nn.GRU`` it does not).
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polyclinic.data.timeline import recipe_of
from polyclinic.models.settings import EncoderSettings, embedding_norm, parse
from polyclinic.study import Modality


class SeriesSettings(EncoderSettings):
    """Settings of a series encoder.

    Attributes:
        network: ``gru`` recurrent, ``tcn`` convolutional.
        hidden: width of the state of a ``gru``, channels of a ``tcn``.
        layers: one above the other; layer i of a ``tcn`` looks 2^i steps apart.
        kernel: steps that one convolution of a ``tcn`` sees.
        dropout: after each layer.
        clip: standardised values beyond ±clip count as ±clip; 0 does not clip.
    """

    network: Literal["gru", "tcn"] = "gru"
    hidden: Annotated[int, Field(ge=1, le=2048)] = 64
    layers: Annotated[int, Field(ge=1, le=10)] = 1
    kernel: Annotated[int, Field(ge=2, le=15)] = 3
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    clip: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


def carried(x: Tensor, fields: Tensor) -> Tensor:
    """Last observed value, mask and time since, by feature; (B, T, F) -> (B, T, 3F).

    Before its first observation a feature is 0, its mean; time since is a share of T, and counts
    from the start until something is observed.
    """
    steps = x.shape[1]
    step = torch.arange(steps, device=x.device)[None, :, None]  # (1, T, 1)
    last = torch.where(fields, step, -1).cummax(dim=1).values  # (B, T, F)
    seen = torch.where(fields, x, x.new_zeros(())).gather(1, last.clamp(min=0))
    value = torch.where(last >= 0, seen, x.new_zeros(()))
    since = (step - last).to(x.dtype) / steps
    return torch.cat([value, fields.to(x.dtype), since], dim=2)


class GruLayer(nn.Module):
    """A gated recurrent unit of two linear maps; the numbers of ``torch.nn.GRU``.

    r = σ(W_r x + U_r h), z = σ(W_z x + U_z h), n = tanh(W_n x + r * (U_n h)), h' = (1-z) n + z h.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = nn.Linear(width, 3 * hidden)
        self.state = nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> the state after each step (B, T, H)."""
        given = self.input(x)  # (B, T, 3H), all steps at once
        h = x.new_zeros(x.shape[0], self.hidden)
        states = []
        for step in range(x.shape[1]):
            r_in, z_in, n_in = given[:, step].chunk(3, dim=1)
            r_h, z_h, n_h = self.state(h).chunk(3, dim=1)
            z = torch.sigmoid(z_in + z_h)
            n = torch.tanh(n_in + torch.sigmoid(r_in + r_h) * n_h)
            h = (1 - z) * n + z * h
            states.append(h)
        return torch.stack(states, dim=1)


class TcnLayer(nn.Module):
    """A causal dilated convolution with a residual; norms over one patient's steps and channels."""

    def __init__(self, width: int, hidden: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.padding = (kernel - 1) * dilation
        self.convolution = nn.Conv1d(width, hidden, kernel, dilation=dilation)
        self.norm = nn.GroupNorm(1, hidden)
        self.skip = nn.Conv1d(width, hidden, 1) if width != hidden else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, T) -> (B, H, T)."""
        past = nn.functional.pad(x, (self.padding, 0))
        out: Tensor = torch.relu(self.norm(self.convolution(past))) + self.skip(x)
        return out


class SeriesEncoder(nn.Module):
    """Maps (B, T, F) values with (B, T, F) presence to (B, D).

    Guarantees:
    - What stands in absent cells does not matter.
    - A patient without any value gets a finite embedding.
    - A patient's embedding does not depend on the others of the batch.
    """

    def __init__(self, settings: SeriesSettings, width: int, embedding: int) -> None:
        super().__init__()
        hidden, depth = settings.hidden, settings.layers
        sizes = (3 * width, *[hidden] * depth)
        self.network, self.clip = settings.network, settings.clip
        self.layers = nn.ModuleList(
            GruLayer(before, after)
            if settings.network == "gru"
            else TcnLayer(before, after, settings.kernel, 2**i)
            for i, (before, after) in enumerate(pairwise(sizes))
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(hidden if settings.network == "gru" else 2 * hidden, embedding)
        self.norm = embedding_norm(settings.norm, embedding)

    def forward(self, x: Tensor, fields: Tensor) -> Tensor:
        """(B, T, F), (B, T, F) bool -> (B, D)."""
        x = torch.where(fields, x, x.new_zeros(()))
        if self.clip:
            x = x.clamp(-self.clip, self.clip)
        h = carried(x, fields)  # (B, T, 3F)
        if self.network == "tcn":
            h = h.transpose(1, 2)  # (B, 3F, T)
        for layer in self.layers:
            h = self.dropout(layer(h))
        # The last state has seen all; of a convolution the mean step and the last one.
        end = h[:, -1] if self.network == "gru" else torch.cat([h.mean(dim=2), h[:, :, -1]], dim=1)
        out: Tensor = self.norm(self.out(end))
        return out


def build(name: str, modality: Modality, embedding: int) -> nn.Module:
    """A series encoder from a study's settings.

    Raises:
        StudyError: a setting or the recipe is unknown or out of range.
    """
    recipe_of(name, modality)  # a study is refused where it is written, not first at a hospital
    return SeriesEncoder(parse(SeriesSettings, name, modality.encoder), modality.width, embedding)
