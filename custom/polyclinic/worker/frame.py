"""Messages between FLARE's process and the training process: a JSON header and named tensors.

No pickle crosses, so neither side can make the other build an object.
"""

import json
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from polyclinic.exchange import Tensors


@dataclass(frozen=True)
class Message:
    """One frame in either direction.

    Attributes:
        head: JSON-able; a request has ``do``, a reply ``ok``.
        tensors: named arrays, each under ``state/``, ``update/`` or ``personal/``.
    """

    head: dict[str, Any]
    tensors: Tensors = field(default_factory=dict)

    def part(self, name: str) -> Tensors:
        """The tensors under a prefix, without it, in the order of their names."""
        prefix = f"{name}/"
        names = sorted(n for n in self.tensors if n.startswith(prefix))
        return {n.removeprefix(prefix): self.tensors[n] for n in names}


def joined(**parts: Tensors) -> Tensors:
    """One dictionary of several, each under its prefix."""
    return {f"{prefix}/{n}": a for prefix, tensors in parts.items() for n, a in tensors.items()}


def send(connection: Connection, message: Message) -> None:
    """Write one message."""
    connection.send_bytes(json.dumps(message.head).encode())
    # safetensors writes memory as it lies, whatever the strides say; asarray keeps shape () as is.
    connection.send_bytes(save({n: np.asarray(a, order="C") for n, a in message.tensors.items()}))


def receive(connection: Connection) -> Message:
    """Read one message.

    Raises:
        EOFError: the other side has gone.
    """
    head = json.loads(connection.recv_bytes())
    return Message(head, load(connection.recv_bytes()))
