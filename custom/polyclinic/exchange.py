"""What crosses the wall: named tensors plus scalars, and the contract that names them.

The names are the contract and nothing else is::

    enc.<modality>.*  head.<modality>.*  fuse.*  head.fused.*  dec.*  calib.*
    store.proto.<modality> (C, D)  store.count.<modality> (C,)  store.anchor.<level> (A, D)
    store.anchor.known (A,)  store.filter.* (F,)  store.total (1,)
    personal.*                                                   (never leaves a site)

Model tensors travel up as differences and down as values; ``store.*`` entries are values both ways.
Data-derived numbers travel as tensors, so that every filter sees them; scalars hold counts and
metrics from a fixed list.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]

PERSONAL = "personal."
STORE = "store."
# In a state that the server sends, in a site's update, in what the anchor site answers.
Way = Literal["state", "train", "anchor"]
BOTH_WAYS: tuple[Way, ...] = ("state", "train")
ROOTS = ("enc.", "head.", "fuse.", "dec.", "calib.", STORE)


def group_of(name: str) -> str:
    """The group a tensor belongs to: its first two name parts, three for ``store.*``."""
    parts = name.split(".")
    return ".".join(parts[: 3 if parts[0] == "store" else 2 if parts[0] in {"enc", "head"} else 1])


@dataclass(frozen=True)
class Update:
    """What a site sends after a round of local training.

    Attributes:
        tensors: differences for model tensors, values for ``store.*``.
        scalars: ``n`` training patients, ``n.<modality>`` patients that carry it, and metrics.
    """

    tensors: Tensors
    scalars: dict[str, float] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Payload size in bytes: the sum of the tensors."""
        return sum(int(a.nbytes) for a in self.tensors.values())


@dataclass(frozen=True)
class State:
    """What the server sends: values of every federated tensor, and the round they belong to.

    Attributes:
        tensors: values by name.
        round: number of rounds that have been folded into these values; 0 is the start.
    """

    tensors: Tensors
    round: int = 0

    def restricted(self, names: Iterable[str]) -> "State":
        """The same round with only these names (those that exist)."""
        keep = [n for n in names if n in self.tensors]
        return State({n: self.tensors[n] for n in keep}, self.round)


@dataclass(frozen=True)
class TensorSpec:
    """One line of the contract.

    Attributes:
        shape: exact shape.
        holder: modality whose holders exchange it; ``None`` means every site does.
        bound: largest absolute value an entry of an update may have.
        dtype: exact dtype name.
        ways: the messages that carry it.
    """

    shape: tuple[int, ...]
    holder: str | None = None
    bound: float = 1e3
    dtype: str = "float32"
    ways: tuple[Way, ...] = BOTH_WAYS

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Contract:
    """Every tensor that may cross the wall in a study under one algorithm.

    The server's guard, the site's egress filter and the site's check of what it receives all
    read this one object.
    """

    specs: Mapping[str, TensorSpec]

    def names_for(self, modalities: Iterable[str], way: Way = "train") -> frozenset[str]:
        """Names that a message of this way carries for a site holding these modalities."""
        held = set(modalities)
        return frozenset(
            n
            for n, s in self.specs.items()
            if way in s.ways and (s.holder is None or s.holder in held)
        )

    def only(self, way: Way) -> "Contract":
        """The lines that a message of this way may carry."""
        return Contract({n: s for n, s in self.specs.items() if way in s.ways})

    def nbytes_for(self, modalities: Iterable[str], way: Way = "train") -> int:
        """Bytes of one such message: the least any transport can send."""
        return sum(self.specs[n].nbytes for n in self.names_for(modalities, way))
