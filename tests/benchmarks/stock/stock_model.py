"""The very network that our job trains, as a class that stock FLARE can build from arguments."""

from typing import Any

from polyclinic.models.multimodal import HeadSettings, SiteModel
from polyclinic.study import parse_study


class StockModel(SiteModel):
    """One encoder and the head, all of it federated.

    Args:
        study: content of ``study.json`` with its panel, one modality.
    """

    def __init__(self, study: dict[str, Any]) -> None:
        parsed = parse_study(study)
        names = tuple(parsed.modalities)
        super().__init__(parsed, names, HeadSettings(slots=names, presence_bits=False))
