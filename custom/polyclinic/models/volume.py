"""Encoders of named sequences (T1, FLAIR, ...) of which a patient may lack any.

Each sequence is encoded, by a network of its own or by a shared one that is told which sequence it
sees, and the embeddings of those that are there are joined::

    h_s = f_s(x_s)                      shared: f(x_s) + e_s
    z   = sum_s a_s h_s,   a = softmax_s(w^T tanh(V h_s)) over present s;   mean: a_s = 1 / |s|

Nothing normalises over a batch, nothing is computed in place and residuals are added, not
accumulated, so that a gradient per patient can be taken.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, cast

import torch
from monai.networks.nets import DenseNet121
from monai.networks.nets.resnet import ResNet, ResNetBlock
from pydantic import Field
from torch import Tensor, nn

from polyclinic.data.volume_recipe import recipe_of
from polyclinic.errors import StudyError
from polyclinic.models.settings import EncoderSettings, embedding_norm, parse
from polyclinic.study import Modality

GROUPS = 8
GROUP_NORM = ("group", {"num_groups": GROUPS})
RELU = ("relu", {"inplace": False})
Width = Annotated[int, Field(ge=GROUPS, le=512, multiple_of=GROUPS)]
# Shortest edge at which the last stage still has more than one voxel to look at.
LEAST_EDGE = {"resnet18": 32, "densenet121": 32}


class VolumeSettings(EncoderSettings):
    """Settings of a volume encoder.

    Attributes:
        network: ``compact`` has .9 million weights and is meant for a CPU, ``resnet18`` 33
            million, ``densenet121`` 12 million, each as often as there are sequences unless
            ``shared``.
        widths: channels of the stages of ``compact``; each halves the edges.
        shared: one network for all sequences, for few patients or many sequences.
        fusion: how the sequences that are there are joined.
        dropout: before the last layer.
        every_row: encode absent sequences too, as zeros, and mask them afterwards. It costs time
            and changes nothing, but a layer then sees every patient of a batch, which a gradient
            per patient (differential privacy) needs.
    """

    network: Literal["compact", "resnet18", "densenet121"] = "compact"
    widths: tuple[Width, ...] = Field(default=(16, 32, 64, 128), min_length=1, max_length=6)
    shared: bool = False
    fusion: Literal["attention", "mean"] = "attention"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    every_row: bool = False


class Residual(ResNetBlock):  # type: ignore[misc]
    """MONAI's basic block with an out-of-place residual; the same weights and numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """relu(F(x) + x)."""
        h = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return cast(Tensor, self.act(h + (x if self.downsample is None else self.downsample(x))))


class Compact(nn.Module):
    """(B, 1, I, J, K) -> (B, width): a convolution of stride 2 and one of stride 1 a stage, then
    the mean and the largest value over all places."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((1, *widths)):
            for inner, stride in ((before, 2), (after, 1)):
                layers.append(nn.Conv3d(inner, after, 3, stride=stride, padding=1, bias=False))
                layers += [nn.GroupNorm(GROUPS, after), nn.ReLU()]
        self.stages = nn.Sequential(*layers)
        self.out = nn.Linear(2 * widths[-1], width)

    def forward(self, x: Tensor) -> Tensor:
        """The vector of one sequence."""
        h = self.stages(x).flatten(2)  # (B, C, places)
        out: Tensor = self.out(torch.cat([h.mean(2), h.amax(2)], dim=1))
        return out


def network_of(settings: VolumeSettings, width: int) -> nn.Module:
    """A network from one sequence (B, 1, I, J, K) to (B, width)."""
    if settings.network == "densenet121":
        dense = DenseNet121(
            spatial_dims=3, in_channels=1, out_channels=width, act=RELU, norm=GROUP_NORM
        )
        return cast(nn.Module, dense)
    if settings.network == "resnet18":
        resnet = ResNet(
            Residual,
            [2, 2, 2, 2],
            [64, 128, 256, 512],
            spatial_dims=3,
            n_input_channels=1,
            num_classes=width,
            conv1_t_stride=2,
            bias_downsample=False,
            act=RELU,
            norm=GROUP_NORM,
        )
        return _grouped(cast(nn.Module, resnet))
    return Compact(settings.widths, width)


def _grouped(network: nn.Module) -> nn.Module:
    """The same network with group normalisation and nothing in place: MONAI's ResNet hands its
    ``norm`` and ``act`` to the first layer only."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, nn.GroupNorm(GROUPS, child.num_features))
            elif isinstance(child, nn.ReLU):
                setattr(module, name, nn.ReLU())
    return network


class SequenceFusion(nn.Module):
    """(B, S, D) embeddings with (B, S) presence -> (B, D); 0 where nothing is there."""

    def __init__(self, fusion: Literal["attention", "mean"], width: int) -> None:
        super().__init__()
        self.v = nn.Linear(width, width // 4 or 1) if fusion == "attention" else None
        self.w = nn.Linear(width // 4 or 1, 1) if fusion == "attention" else None

    def forward(self, h: Tensor, fields: Tensor) -> Tensor:
        """The weighted mean over present sequences."""
        there = fields.to(h)
        if self.v is None or self.w is None:
            weight = there / there.sum(1, keepdim=True).clamp(min=1)
        else:
            score = self.w(torch.tanh(self.v(h))).squeeze(-1)  # (B, S)
            # A large finite number, not -inf: softmax over no sequence must not give NaN.
            score = score.masked_fill(~fields, torch.finfo(score.dtype).min)
            weight = torch.softmax(score, dim=1) * there
        return torch.einsum("bs,bsd->bd", weight, h)


class VolumeEncoder(nn.Module):
    """Maps (B, S, I, J, K) sequences with (B, S) presence to (B, D).

    Guarantees:
    - What stands in the voxels of an absent sequence does not matter.
    - A patient's embedding does not depend on the other patients of a batch.
    - A patient without any sequence gets a finite embedding.
    """

    # A forward pass costs so much that patients without a volume are left out of it.
    present_only = True

    def __init__(self, settings: VolumeSettings, sequences: int, embedding: int) -> None:
        super().__init__()
        count = 1 if settings.shared else sequences
        self.networks = nn.ModuleList(network_of(settings, embedding) for _ in range(count))
        self.which = nn.Embedding(sequences, embedding) if settings.shared else None
        self.fusion = SequenceFusion(settings.fusion, embedding)
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(embedding, embedding)
        self.norm = embedding_norm(settings.norm, embedding)
        self.every_row = settings.every_row

    def forward(self, x: Tensor, fields: Tensor) -> Tensor:
        """(B, S, I, J, K), (B, S) bool -> (B, D)."""
        h = torch.stack([self._sequence(x, fields, s) for s in range(x.shape[1])], dim=1)
        z = torch.relu(self.fusion(h, fields))  # (B, D)
        out: Tensor = self.norm(self.out(self.dropout(z)))
        return out

    def _sequence(self, x: Tensor, fields: Tensor, s: int) -> Tensor:
        """h_s (B, D), 0 where the sequence is absent."""
        there = fields[:, s]
        network = self.networks[s % len(self.networks)]
        if self.every_row:
            shown = torch.where(there[:, None, None, None], x[:, s], x.new_zeros(()))
            h = network(shown[:, None])
        else:
            rows = torch.nonzero(there).flatten()
            if not rows.numel():
                return x.new_zeros((x.shape[0], self.out.in_features))
            part = network(x[rows, s][:, None])
            h = part.new_zeros((x.shape[0], part.shape[1])).index_copy(0, rows, part)
        if self.which is not None:
            h = h + self.which(torch.full_like(there, s, dtype=torch.int64))
        return torch.where(there[:, None], h, h.new_zeros(()))


def build(name: str, modality: Modality, embedding: int) -> nn.Module:
    """A volume encoder from a study's settings and the size of its recipe.

    Raises:
        StudyError: a setting is wrong, or the network cannot work at the recipe's size.
    """
    settings = parse(VolumeSettings, name, modality.encoder)
    size = recipe_of(name, modality).size
    least = LEAST_EDGE.get(settings.network, 2 ** len(settings.widths))
    if min(size) < least:
        raise StudyError(
            expected=f"a recipe size for '{settings.network}' of volume '{name}': edges of at "
            f"least {least}",
            got=" x ".join(str(n) for n in size),
            remedy="change 'size' of the recipe, or the encoder",
        )
    return VolumeEncoder(settings, modality.width, embedding)
