"""Some rows of a long table, and what hands them out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

ROWS = 1 << 16

Cells = list[str] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table.

    Attributes:
        lines: of each row in the file, 1 being the header.
        ids: patient id of each row, "" where blank.
        columns: by name, text cells, or numbers (NaN for null) where the file stores numbers.
        ragged: lines among them whose length differs from the header's.
    """

    lines: Sequence[int]
    ids: list[str] = field(repr=False)
    columns: dict[str, Cells] = field(repr=False)
    ragged: tuple[int, ...] = ()


class Stream(Protocol):
    """A table whose rows are read in chunks."""

    @property
    def header(self) -> tuple[str, ...]:
        """Column names."""
        ...

    @property
    def decimal_comma(self) -> bool:
        """Whether commas in cells may be decimal points."""
        ...

    def chunks(self, key: str, columns: Iterable[str]) -> Iterator[Chunk]:
        """The rows with the patient column and these columns."""
        ...
