"""Between a torch model and the named NumPy tensors that cross the wall or stay on disk."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from polyclinic.errors import ContractViolation, StudyError
from polyclinic.exchange import PERSONAL, Array, Tensors

# Of a whole study: 1 GiB, and Adam takes two more at a site. Whoever writes a job chooses what a
# hospital allocates.
MOST_WEIGHTS = 256 << 20


def tensors_of(model: nn.Module, prefixes: Iterable[str] = ("",)) -> Tensors:
    """float32 copies of the parameters and float buffers whose names start with a prefix.

    Integer buffers (counters) are no part of a model that is averaged, and stay behind.
    """
    start = tuple(prefixes)
    return {
        name: value.detach().cpu().numpy().astype(np.float32, copy=True)
        for name, value in model.state_dict().items()
        if name.startswith(start) and value.is_floating_point()
    }


def require_bearable(model: nn.Module) -> None:
    """Refuse a model, at best while it is on the meta device, that a job made too large.

    Raises:
        StudyError: it has more weights than ``MOST_WEIGHTS``.
    """
    if sum(value.numel() for value in model.state_dict().values()) > MOST_WEIGHTS:
        raise StudyError(
            expected=f"a model of at most {MOST_WEIGHTS >> 20} million weights",
            got="a larger one",
            remedy="choose smaller encoders or heads, or fewer modalities or features",
        )


def load(model: nn.Module, tensors: Mapping[str, Array]) -> None:
    """Copy into the model every tensor it has a place for; other names are ignored.

    Raises:
        ContractViolation: a shape differs.
    """
    places = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            place = places.get(name)
            if place is None:
                continue
            if tuple(place.shape) != tuple(value.shape):
                raise ContractViolation(
                    expected=f"'{name}' of shape {tuple(place.shape)}",
                    got=f"shape {tuple(value.shape)}",
                    remedy="run the same study and algorithm settings at server and sites",
                )
            place.copy_(torch.tensor(np.asarray(value)))


def difference(after: Tensors, before: Mapping[str, Array]) -> Tensors:
    """after - before, name by name, in float32."""
    return {
        n: np.asarray(a, dtype=np.float32) - np.asarray(before[n], dtype=np.float32)
        for n, a in after.items()
    }


def personal(tensors: Mapping[str, Array]) -> Tensors:
    """The same tensors under ``personal.*``."""
    return {PERSONAL + n: np.asarray(a) for n, a in tensors.items()}


def from_personal(tensors: Mapping[str, Array]) -> Tensors:
    """Personal tensors under the model's own names."""
    return {n.removeprefix(PERSONAL): np.asarray(a) for n, a in tensors.items()}
