"""The stacks of a cohort's patients from their files, each file checked on its way."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyclinic.data.cache import ArrayCache, Held
from polyclinic.data.column import Request
from polyclinic.data.dicom_series import read_series
from polyclinic.data.flaw import Flaw, guarded
from polyclinic.data.grid import MIN_OVERLAP, Grid, Volume, overlap, spacing_of
from polyclinic.data.nifti import read_nifti
from polyclinic.data.quarantine import Entry
from polyclinic.data.volume_frame import MAX_FRAMED, framed, framed_shape
from polyclinic.data.volume_layout import VolumeFiles
from polyclinic.data.volume_recipe import VolumeRecipe
from polyclinic.errors import DataRejected

# A CT of 512^3 takes some 2 GB while it is resampled.
MOST_AT_ONCE = 2
Paths = tuple[Path, ...]


@dataclass(frozen=True)
class Scan:
    """The stack of one patient.

    Attributes:
        there: which sequences of the panel it holds, (S,).
        spacing_mm: of the first sequence's file.
        lengths: voxels per axis that there were to crop from.
    """

    held: Held
    there: tuple[bool, ...]
    spacing_mm: tuple[float, float, float]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What became of one patient's volumes."""

    scan: Scan | None = None
    entries: tuple[Entry, ...] = ()
    grids: tuple[Grid, ...] = ()


@dataclass(frozen=True)
class VolumeReader:
    """The volumes of a request and how they are read."""

    request: Request
    recipe: VolumeRecipe
    listed: VolumeFiles
    caches: dict[str, ArrayCache] = field(init=False, repr=False, default_factory=dict)

    def all(self) -> list[Found]:
        """What every patient has, a few at a time, in the order of ids."""
        found = []
        with ThreadPoolExecutor(min(MOST_AT_ONCE, len(os.sched_getaffinity(0)))) as pool:
            for one in pool.map(self.patient, self.request.ids):
                found.append(one)
                self.request.tick(1)
        return found

    def patient(self, pseudonym: str) -> Found:
        """The stack of a patient's sequences that can be read and joined."""
        entries: list[Entry] = []
        grids: dict[str, Grid] = {}
        loaded: dict[str, Volume] = {}
        mine = self.listed.files.get(pseudonym, {})
        for sequence in (s for s in self.request.modality.features if s in mine):
            try:
                grid = self._grid(mine[sequence], sequence, loaded)
                self._require_joined(mine[sequence], grid, next(iter(grids.values()), grid))
                grids[sequence] = grid
            except DataRejected as error:
                entries.append(self._entry(error, pseudonym))
        try:
            scan = self._scan({s: mine[s] for s in grids}, grids, loaded) if grids else None
        except DataRejected as error:
            return Found(None, (*entries, self._entry(error, pseudonym)))
        return Found(scan, tuple(entries), tuple(grids.values()))

    def _entry(self, error: DataRejected, pseudonym: str) -> Entry:
        reference = error.file_hash or "file table"
        return Entry(error.reason, self.request.name, reference, patient=pseudonym)

    def _grid(self, paths: Paths, sequence: str, loaded: dict[str, Volume]) -> Grid:
        """The grid of a sequence; its voxels are in ``loaded`` if they had to be read."""

        def make() -> npt.NDArray[np.float64]:
            loaded[sequence] = self._volume(paths)
            return Grid.of(loaded[sequence]).packed()

        return Grid.unpacked(self._cache("grid").get(paths, make))

    def _require_joined(self, paths: Paths, grid: Grid, first: Grid) -> None:
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

    def _scan(
        self, mine: Mapping[str, Paths], grids: Mapping[str, Grid], loaded: dict[str, Volume]
    ) -> Scan:
        """The stack of sequences, made if it is not in the cache."""
        there = tuple(s in mine for s in self.request.modality.features)
        flat = tuple(p for paths in mine.values() for p in paths)
        lengths: list[int] = []

        def make() -> npt.NDArray[np.float16]:
            ready = {s: loaded[s] for s in mine if s in loaded}
            volumes = {s: ready.get(s) or self._volume(p) for s, p in mine.items()}
            work = partial(framed, volumes, self.recipe)
            stack, whole = guarded(flat[0], "volumes that can be resampled", work)
            lengths[:] = whole
            return stack

        def extent() -> npt.NDArray[np.int64]:
            if not lengths:
                make()
            return np.array(lengths)

        # Which sequences the files are decides the stack as much as the files.
        told = {"sequences": list(mine), **self.recipe.decoding}
        held = self._cache("stack", told).hold(flat, make)
        held.read()
        whole = self._cache("extent", told).get(flat, extent)
        loaded.clear()
        first = next(iter(grids.values()))
        return Scan(held, there, spacing_of(first.affine), tuple(whole.tolist()))

    def _volume(self, paths: Paths) -> Volume:
        """The volume of one NIfTI file or of the slices of a series."""
        if self.request.source.layout == "dicom":
            return read_series(paths, burned_in=self.request.source.burned_in)
        return read_nifti(paths[0])

    def _cache(self, what: str, told: Mapping[str, Any] | None = None) -> ArrayCache:
        """The cache of one sort of arrays."""
        source = self.request.source
        decides = {"kind": "volume", "what": what, "layout": source.layout == "dicom"}
        decides |= {"burned_in": source.burned_in, **(told or {})}
        name = repr(sorted(decides.items()))
        if name not in self.caches:
            self.caches[name] = ArrayCache(self.request.cache, decides)
        return self.caches[name]
