"""The stacks of a cohort's patients from their files, each file checked on its way."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from polyclinic.data.cache import Held
from polyclinic.data.column import Request
from polyclinic.data.flaw import guarded
from polyclinic.data.grid import Grid, Volume, spacing_of
from polyclinic.data.quarantine import Entry
from polyclinic.data.sequence_reader import Paths, SequenceReader
from polyclinic.data.volume_frame import framed
from polyclinic.data.volume_layout import VolumeFiles
from polyclinic.data.volume_recipe import VolumeRecipe
from polyclinic.errors import DataRejected

# A CT of 512^3 takes some 2 GB while it is resampled.
MOST_AT_ONCE = 2


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
    files: SequenceReader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", SequenceReader(self.request, self.recipe))

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
                grid = self.files.grid(mine[sequence], sequence, loaded)
                self.files.require_joined(mine[sequence], grid, next(iter(grids.values()), grid))
                grids[sequence] = grid
            except DataRejected as error:
                entries.append(self.files.entry(error, pseudonym))
        try:
            scan = self._scan({s: mine[s] for s in grids}, grids, loaded) if grids else None
        except DataRejected as error:
            return Found(None, (*entries, self.files.entry(error, pseudonym)))
        return Found(scan, tuple(entries), tuple(grids.values()))

    def _scan(
        self, mine: Mapping[str, Paths], grids: Mapping[str, Grid], loaded: dict[str, Volume]
    ) -> Scan:
        """The stack of sequences, made if it is not in the cache."""
        there = tuple(s in mine for s in self.request.modality.features)
        flat = tuple(p for paths in mine.values() for p in paths)
        lengths: list[int] = []

        def make() -> npt.NDArray[np.float16]:
            ready = {s: loaded[s] for s in mine if s in loaded}
            volumes = {s: ready.get(s) or self.files.volume(p) for s, p in mine.items()}
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
        held = self.files.cache("stack", told).hold(flat, make)
        held.read()
        whole = self.files.cache("extent", told).get(flat, extent)
        loaded.clear()
        first = next(iter(grids.values()))
        return Scan(held, there, spacing_of(first.affine), tuple(whole.tolist()))
