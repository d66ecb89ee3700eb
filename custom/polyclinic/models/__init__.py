"""Encoders by kind, and the model of one site that is assembled from them.

``build`` is the only place that maps a kind to an encoder: a new modality of a known kind is a line
in a study, a new kind is one file here and one in ``polyclinic.data``. A kind's module is imported
when a study needs it: image networks bring heavy libraries that a table does not need.
"""

import importlib
import importlib.util
from typing import cast

from torch import nn

from polyclinic.errors import StudyError
from polyclinic.study import Modality


def build(name: str, modality: Modality, embedding: int) -> nn.Module:
    """The encoder of one modality: ``forward(x, fields)`` gives (B, embedding).

    Raises:
        StudyError: the kind has no encoder yet, or a setting is unknown or out of range.
    """
    path = f"polyclinic.models.{modality.kind}"
    if importlib.util.find_spec(path) is None:
        raise StudyError(
            expected=f"modality '{name}' of a kind with an encoder",
            got=f"kind '{modality.kind}'",
            remedy="leave the modality out of the study",
        )
    return cast(nn.Module, importlib.import_module(path).build(name, modality, embedding))
