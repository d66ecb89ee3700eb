"""One sequence of a patient from its files: where it lies, its voxels, and what is kept of both."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyclinic.data.cache import ArrayCache
from polyclinic.data.column import Request
from polyclinic.data.dicom_series import read_series
from polyclinic.data.flaw import Flaw, guarded
from polyclinic.data.grid import MIN_OVERLAP, Grid, Volume, overlap
from polyclinic.data.nifti import read_nifti
from polyclinic.data.quarantine import Entry
from polyclinic.data.volume_frame import MAX_FRAMED, Frame, framed_shape
from polyclinic.errors import DataRejected

Paths = tuple[Path, ...]


@dataclass(frozen=True)
class SequenceReader:
    """How the files of a request are read.

    Attributes:
        recipe: tells how large a volume may become.
    """

    request: Request
    recipe: Frame
    caches: dict[str, ArrayCache] = field(init=False, repr=False, default_factory=dict)

    def grid(self, paths: Paths, sequence: str, loaded: dict[str, Volume]) -> Grid:
        """The grid of a sequence; its voxels are in ``loaded`` if they had to be read."""

        def make() -> npt.NDArray[np.float64]:
            loaded[sequence] = self.volume(paths)
            return Grid.of(loaded[sequence]).packed()

        return Grid.unpacked(self.cache("grid").get(paths, make))

    def volume(self, paths: Paths) -> Volume:
        """The volume of one NIfTI file or of the slices of a series."""
        if self.request.source.layout == "dicom":
            return read_series(paths, burned_in=self.request.source.burned_in)
        return read_nifti(paths[0])

    def require_joined(self, paths: Paths, grid: Grid, first: Grid) -> None:
        """Refuse a sequence that cannot be brought onto the grid of the patient's first one.

        Raises:
            DataRejected: ``different_grids``, or ``too_large`` at the recipe's spacing.
        """

        def work() -> None:
            lengths = framed_shape(grid.affine, grid.shape, self.recipe)
            if float(np.prod(lengths, dtype=np.float64)) > MAX_FRAMED:
                raise Flaw("too_large", "too many voxels at the recipe's spacing")
            if overlap(grid.affine, grid.shape, first.affine, first.shape) < MIN_OVERLAP:
                raise Flaw("different_grids", "another place than the first sequence")

        guarded(paths[0], "sequences of one place", work)

    def entry(self, error: DataRejected, pseudonym: str) -> Entry:
        """What the quarantine list says of a refused file."""
        reference = error.file_hash or "file table"
        return Entry(error.reason, self.request.name, reference, patient=pseudonym)

    def cache(self, what: str, told: Mapping[str, Any] | None = None) -> ArrayCache:
        """The cache of one sort of arrays."""
        source = self.request.source
        decides = {"kind": "volume", "what": what, "layout": source.layout == "dicom"}
        decides |= {"burned_in": source.burned_in, **(told or {})}
        name = repr(sorted(decides.items()))
        if name not in self.caches:
            self.caches[name] = ArrayCache(self.request.cache, decides)
        return self.caches[name]
