"""Checked settings of the segmentation network, and what follows from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from polyclinic.data.recipe import checked

Heads = Annotated[int, Field(ge=1, le=16)]


class ScanNetwork(BaseModel):
    """Settings of FedMEPD's network; the defaults are the authors' code.

    Attributes:
        dims: 3 for volumes, 2 for single slices.
        width: channels of level 1, the highest resolution; each further level has twice as many.
        levels: resolutions, each half of the one before.
        heads: of the calibration, one number a level; empty is 4 at level 1 and 8 elsewhere.
            Paper: 8 everywhere.
        calibration_dropout: on the attention.
        residual: add the calibrated feature to the feature instead of replacing it. The code does
            not, so that a site starts by segmenting without any feature of the patient.
        chunk: voxels that query the anchors at once, which bounds memory and changes nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    dims: Literal[2, 3] = 3
    width: int = Field(default=16, ge=4, le=64, multiple_of=4)
    levels: int = Field(default=4, ge=2, le=5)
    heads: tuple[Heads, ...] = ()
    calibration_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    residual: bool = False
    chunk: int = Field(default=65536, ge=256, le=1 << 22)

    @field_validator("heads")
    @classmethod
    def _one_number_a_level(cls, heads: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        levels = info.data.get("levels", len(heads))
        if heads and len(heads) != levels:
            raise ValueError(f"expected {levels} numbers, one a level, or none")
        return heads

    @property
    def channels(self) -> tuple[int, ...]:
        """C_l of levels 1, 2, ... in order."""
        return tuple(self.width << level for level in range(self.levels))

    @property
    def heads_of_levels(self) -> tuple[int, ...]:
        """Heads of the calibration at levels 1, 2, ... in order."""
        return self.heads or (4,) + (8,) * (self.levels - 1)


def parse_network(payload: dict[str, Any], name: str = "scan") -> ScanNetwork:
    """Checked settings of the network that segments modality ``name``.

    Raises:
        StudyError: naming the first setting that is unknown or out of range.
    """
    return checked(ScanNetwork, payload, "network setting", name)


def least_edge(settings: ScanNetwork) -> int:
    """The smallest edge, in voxels, of a crop that the network can segment.

    A normalisation takes the spread over voxels, so that the lowest resolution needs more than one.
    One shorter axis is no matter.
    """
    return (1 << (settings.levels - 1)) + 1
