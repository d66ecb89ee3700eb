"""Encoders of a film: oriented gradients or a small network for a CPU, and three large networks.

The large ones are ResNet-18, DenseNet-121 and a vision transformer.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from polyclinic.data.image import recipe_of
from polyclinic.errors import StudyError
from polyclinic.models.convolution import (
    DENSENET_WIDTH,
    GROUPS,
    RESNET_WIDTH,
    Compact,
    FeatureNorm,
    densenet121,
    resnet18,
)
from polyclinic.models.hog import BLOCK, Hog, hog_width
from polyclinic.models.published import fill
from polyclinic.models.settings import EncoderSettings, embedding_norm, parse
from polyclinic.models.transformer import VisionTransformer
from polyclinic.models.weights import stated_weights
from polyclinic.settings import WeightsName
from polyclinic.study import Modality

Width = Annotated[int, Field(ge=GROUPS, le=1024, multiple_of=GROUPS)]
# Attention is quadratic in the number of patches.
MAX_TOKENS = 1024
# A linear layer on more would be larger than the networks it stands in for.
MAX_GRADIENTS = 1 << 15
# Looked at together when nothing is learned; a score of many large films must not take all memory.
PIXELS_AT_ONCE = 1 << 22


class ImageSettings(EncoderSettings):
    """Settings of an image encoder.

    Attributes:
        network: ``compact`` has some 0.2 million weights and is meant for pictures of 64 to 128
            pixels, ``resnet18`` 11 million, ``densenet121`` 7 million, ``vit`` 5 million as it is
            preset (ViT-Ti/16). ``hog`` learns nothing of a picture but one linear layer on its
            oriented gradients (``polyclinic.models.hog``), for some hundred films.
        feature_norm: inside a convolutional network. ``group`` depends on one picture only;
            ``batch`` is what published weights were trained with, mixes patients of a batch, and
            does not go with privacy by a gradient per patient.
        widths: channels of the stages of ``compact``.
        cell, orientations: of ``hog``; pixels along the edge of a cell, and bins in half a turn.
        patch, width, depth, heads: of ``vit``.
        dropout: before the last layer.
        weights: name of a file of weights that the network starts from, which whoever draws the
            first weights must have (``polyclinic.models.weights``); never a path.
        weights_sha256: of that file; a study that names weights names their hash too.
    """

    network: Literal["compact", "hog", "resnet18", "densenet121", "vit"] = "compact"
    feature_norm: FeatureNorm = "group"
    widths: tuple[Width, ...] = Field(default=(24, 48, 96, 128), min_length=1, max_length=6)
    cell: int = Field(default=16, ge=4, le=64)
    orientations: int = Field(default=9, ge=2, le=36)
    patch: int = Field(default=16, ge=4, le=64)
    width: int = Field(default=192, ge=16, le=768)
    depth: int = Field(default=12, ge=1, le=24)
    heads: int = Field(default=3, ge=1, le=16)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    weights: WeightsName | Literal[""] = ""
    weights_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _divides(self) -> "ImageSettings":
        if self.width % self.heads:
            raise ValueError("heads divides width")
        if bool(self.weights) != bool(self.weights_sha256):
            raise ValueError("weights and weights_sha256 come together")
        if self.weights and self.network == "hog":
            raise ValueError("hog has no weights to start from")
        return self


class ImageEncoder(nn.Module):
    """Maps (B, 1, H, W) films with (B, 1) presence to (B, D).

    Guarantees:
    - What stands in the pixels of an absent film does not matter.
    - With group normalisation a film's embedding does not depend on the other films of a batch.
    """

    # A forward pass costs so much that patients without a film are left out of it.
    present_only = True

    def __init__(self, settings: ImageSettings, size: tuple[int, int], embedding: int) -> None:
        super().__init__()
        self.network, width = _network(settings, size)
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(width, embedding)
        self.norm = embedding_norm(settings.norm, embedding)
        self.stated = settings.weights, settings.weights_sha256

    def start_from_weights(self) -> None:
        """Fill the network with the weights that the study names, if it does.

        Raises:
            SiteError: they are not here, or not those of this network.
        """
        name, sha256 = self.stated
        if name:
            fill(self.network, stated_weights(name, sha256))

    def forward(self, x: Tensor, fields: Tensor) -> Tensor:
        """(B, 1, H, W), (B, 1) bool -> (B, D)."""
        shown = torch.where(fields[..., None, None], x, x.new_zeros(()))
        parts = [shown]
        if not torch.is_grad_enabled() and not self.training:
            count = max(1, PIXELS_AT_ONCE // math.prod(shown.shape[2:]))
            parts = [shown[i : i + count] for i in range(0, len(shown), count)] or parts
        h = self.dropout(torch.cat([self.network(part) for part in parts]))  # (B, width)
        out: Tensor = self.norm(self.out(h))
        return out


def _network(settings: ImageSettings, size: tuple[int, int]) -> tuple[nn.Module, int]:
    """The network and the length of its vector."""
    if settings.network == "resnet18":
        return resnet18(settings.feature_norm), RESNET_WIDTH
    if settings.network == "densenet121":
        return densenet121(settings.feature_norm), DENSENET_WIDTH
    if settings.network == "vit":
        vit = VisionTransformer(
            size, settings.patch, settings.width, settings.depth, settings.heads
        )
        return vit, settings.width
    if settings.network == "hog":
        width = hog_width(size, settings.cell, settings.orientations)
        return Hog(settings.cell, settings.orientations), width
    return Compact(settings.widths, settings.feature_norm), settings.widths[-1]


def build(name: str, modality: Modality, embedding: int) -> nn.Module:
    """An image encoder from a study's settings and the size of its recipe.

    Raises:
        StudyError: a setting is wrong, or the network cannot work at the recipe's size.
    """
    settings = parse(ImageSettings, name, modality.encoder)
    size = recipe_of(name, modality).size
    _require_size(name, settings, size)
    return ImageEncoder(settings, size, embedding)


def _require_size(name: str, settings: ImageSettings, size: tuple[int, int]) -> None:
    """Refuse a network that would see nothing, or too much, of pictures of this size.

    Raises:
        StudyError: it does not fit.
    """
    stages = {"compact": len(settings.widths), "resnet18": 5, "densenet121": 5}
    if settings.network == "vit":
        rows, columns = (edge // settings.patch for edge in size)
        fits = all(edge % settings.patch == 0 for edge in size) and rows * columns <= MAX_TOKENS
        wanted = f"edges that {settings.patch} divides, and at most {MAX_TOKENS} patches"
    elif settings.network == "hog":
        cell, width = settings.cell, hog_width(size, settings.cell, settings.orientations)
        fits = all(edge % cell == 0 and edge >= BLOCK * cell for edge in size)
        fits = fits and width <= MAX_GRADIENTS
        wanted = f"edges of {BLOCK} or more times {cell}, and at most {MAX_GRADIENTS} gradients"
    else:
        # Statistics over a batch need two places at the end: a batch may hold a single film.
        least = 2 ** (stages[settings.network] + (settings.feature_norm == "batch"))
        fits, wanted = min(size) >= least, f"edges of at least {least}"
    if not fits:
        raise StudyError(
            expected=f"a recipe size for '{settings.network}' of image '{name}': {wanted}",
            got=f"{size[0]} x {size[1]}",
            remedy="change 'size' of the recipe, or the encoder",
        )
