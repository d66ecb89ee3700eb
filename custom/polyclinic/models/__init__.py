"""Encoders by kind, and the model of one site that is assembled from them.

``build`` is the only place that maps a kind to an encoder: a new modality of a known kind is a line
in a study, a new kind is one file here and one in ``polyclinic.data``.
"""

from collections.abc import Callable

from torch import nn

from polyclinic.errors import StudyError
from polyclinic.models import bag, vector
from polyclinic.study import Modality

KINDS: dict[str, Callable[[str, Modality, int], nn.Module]] = {
    "vector": vector.build,
    "bag": bag.build,
}


def build(name: str, modality: Modality, embedding: int) -> nn.Module:
    """The encoder of one modality: ``forward(x, fields)`` gives (B, embedding).

    Raises:
        StudyError: the kind has no encoder yet, or a setting is unknown or out of range.
    """
    if modality.kind not in KINDS:
        raise StudyError(
            expected=f"modality '{name}' of a kind with an encoder ({', '.join(sorted(KINDS))})",
            got=f"kind '{modality.kind}'",
            remedy="leave the modality out of the study",
        )
    return KINDS[modality.kind](name, modality, embedding)
