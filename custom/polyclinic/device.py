"""Where a site computes: the CPU, or the device its settings name.

Patients and everything that leaves or is kept stay on the CPU; models and the batch at hand move.
Weights and the order of patients are drawn on the CPU, so every device starts from the same weights
and sees the same batches; dropout is drawn on the device. Written for CUDA, tested on CPUs only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from polyclinic.errors import SiteError

CPU = torch.device("cpu")
_here: ContextVar[torch.device] = ContextVar("device", default=CPU)


def require_device(name: str) -> torch.device:
    """The device a site's settings name, when this machine has it.

    Raises:
        SiteError: not ``cpu``, ``cuda`` or ``cuda:N``, or this machine has no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise _missing("'device' in polyclinic.yaml as cpu, cuda or cuda:N", "another text")
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise _missing(f"a CUDA device for '{device}'", f"{found} that torch can use")
    return device


def here() -> torch.device:
    """Where the models of this context compute."""
    return _here.get()


@contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """Compute on a device inside this context."""
    token = _here.set(device)
    try:
        yield
    finally:
        _here.reset(token)


def _missing(expected: str, got: str) -> SiteError:
    return SiteError(
        expected=expected,
        got=got,
        remedy="install the driver and a CUDA build of torch, or set 'device: cpu'",
    )
