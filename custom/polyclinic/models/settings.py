"""Checked encoder settings, the last layer of every encoder, and a learned stand-in."""

from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from polyclinic.data.recipe import checked

Norm = Literal["layer", "none"]
Settings = TypeVar("Settings", bound="EncoderSettings")


class EncoderSettings(BaseModel):
    """What every kind of encoder has.

    Attributes:
        norm: ``layer`` puts a LayerNorm on the embedding. ``none`` is the authors' code; with
            prototypes it can run away (see ``polyclinic.algorithms.fedmm``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)
    norm: Norm = "layer"


def parse(kind: type[Settings], name: str, payload: dict[str, Any]) -> Settings:
    """Checked settings of one modality's encoder.

    Raises:
        StudyError: naming the first setting that is unknown or out of range.
    """
    return checked(kind, payload, "encoder setting", name)


def embedding_norm(norm: Norm, embedding: int) -> nn.Module:
    """The last layer of an encoder."""
    return nn.LayerNorm(embedding) if norm == "layer" else nn.Identity()


class Token(nn.Module):
    """A learned vector that stands for something that is not there; it starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """Back to the start."""
        nn.init.zeros_(self.value)

    def forward(self) -> Tensor:
        """(width,)."""
        return self.value
