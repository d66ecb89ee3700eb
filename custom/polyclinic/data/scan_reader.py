"""The stacks of a segmentation's patients from their files, each file checked on its way.

A damaged sequence costs itself; without a mask that can be read a patient is neither trained on
nor scored, since nothing says what would be right.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from polyclinic.data.cache import Held
from polyclinic.data.flaw import guarded
from polyclinic.data.grid import Floats, Grid, Volume, spacing_of
from polyclinic.data.nifti import read_nifti
from polyclinic.data.quarantine import Entry
from polyclinic.data.scan_frame import Framed, classes_of, framed_scan
from polyclinic.data.scan_layout import MASK, ScanFiles
from polyclinic.data.scan_recipe import ScanRecipe
from polyclinic.data.sequence_reader import Paths, SequenceReader
from polyclinic.data.volume_reader import MOST_AT_ONCE
from polyclinic.errors import DataRejected

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stack:
    """One patient on one grid.

    Attributes:
        held: the sequences, (s, I, J, K) float16.
        mask: class of each voxel, (I, J, K) uint8; ``None`` where none was asked for.
        there: modalities in the order of ``held``.
        spacing_mm: of each modality's file, in that order.
        affine: of the stack, (4, 4).
        lengths: I, J, K.
        kept: share of what the mask file marks that is still marked.
        voxels: of each class.
    """

    held: Held
    mask: Held | None
    there: tuple[str, ...]
    spacing_mm: tuple[tuple[float, float, float], ...]
    affine: Floats = field(repr=False)
    lengths: tuple[int, int, int]
    kept: float = 1.0
    voxels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Found:
    """What became of one patient's files."""

    stack: Stack | None = None
    entries: tuple[Entry, ...] = ()
    grids: tuple[Grid, ...] = ()


@dataclass
class _Mine:
    """The files of one patient that can be read and joined.

    Attributes:
        loaded: volumes that had to be read for their grid, until the stack is kept.
    """

    sequences: dict[str, Paths] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    loaded: dict[str, Volume] = field(default_factory=dict)
    mask: Paths | None = None

    @property
    def paths(self) -> Paths:
        """All files of the sequences."""
        return tuple(p for paths in self.sequences.values() for p in paths)


@dataclass
class _Together:
    """Arrays that are made together and kept apart: who asks for one leaves the others ready."""

    make: Callable[[], dict[str, Array]]
    ready: dict[str, Array] = field(default_factory=dict)

    def part(self, what: str) -> Callable[[], Array]:
        """Makes one of them."""

        def made() -> Array:
            found = self.ready.pop(what, None)
            if found is None:
                fresh = self.make()
                found = fresh.pop(what)
                self.ready.update(fresh)
            return found

        return made


@dataclass(frozen=True)
class ScanReader:
    """The scans of a site and how they are read.

    Attributes:
        readers: by modality in the order of stacks: those trained on come first, and decide the
            grid and the box, so that what a site withholds from training changes nothing in it.
        trained_on: how many those are.
        codes: of the mask, by class; empty reads no masks.
    """

    readers: Mapping[str, SequenceReader]
    trained_on: int
    recipe: ScanRecipe
    listed: ScanFiles
    codes: tuple[int, ...] = ()

    def all(self, ids: Sequence[str]) -> list[Found]:
        """What every patient has, a few at a time, in this order."""
        found = []
        first = next(iter(self.readers.values()))
        with ThreadPoolExecutor(min(MOST_AT_ONCE, len(os.sched_getaffinity(0)))) as pool:
            for one in pool.map(self.patient, ids):
                found.append(one)
                first.request.tick(1)
        return found

    def patient(self, pseudonym: str) -> Found:
        """The stack of a patient's sequences that can be read and joined, if the mask can be."""
        listed = self.listed.sequences.get(pseudonym, {})
        mine = _Mine(mask=self.listed.masks.get(pseudonym) if self.codes else None)
        if listed and self.codes and mine.mask is None:
            return Found(None, (Entry("no_mask", "mask", "a patient", patient=pseudonym),))
        entries: list[Entry] = []
        for name, reader in self.readers.items():
            if name not in listed:
                continue
            paths = listed[name]
            try:
                grid = reader.grid(paths, name, mine.loaded)
                reader.require_joined(paths, grid, next(iter(mine.grids.values()), grid))
                mine.sequences[name], mine.grids[name] = paths, grid
            except DataRejected as error:
                entries.append(reader.entry(error, pseudonym))
        stack = None
        if mine.sequences:
            try:
                stack = self._stack(mine)
            except DataRejected as error:
                name = "mask" if error.reason == "bad_mask" else next(iter(mine.sequences))
                reference = error.file_hash or "a file of the folder"
                entries.append(Entry(error.reason, name, reference, patient=pseudonym))
        return Found(stack, tuple(entries), tuple(mine.grids.values()))

    def _stack(self, mine: _Mine) -> Stack:
        """The stack and the mask, made if they are not in the cache.

        Raises:
            DataRejected: ``bad_mask``, or the volumes cannot be brought onto one grid.
        """
        first_name, first = next(iter(mine.grids.items()))
        if mine.mask is not None:
            self._require_mask(mine.mask, first, mine.loaded)
        trained_on = list(self.readers)[: self.trained_on]
        boxing = sum(1 for m in trained_on if m in mine.sequences) or len(mine.sequences)
        parts = _Together(lambda: self._made(mine, boxing))
        # Which sequences the files are decides the stack as much as the files.
        told = {"sequences": list(mine.sequences), "boxing": boxing, **self.recipe.decoding}
        cache = self.readers[first_name].cache
        held = cache("scan", told).hold(mine.paths, parts.part("stack"))
        held.read()
        place = cache("scan place", told).get(mine.paths, parts.part("place"))
        mask, marks = None, list[float]()
        if mine.mask is not None:
            told, paths = {**told, "codes": list(self.codes)}, (*mine.paths, *mine.mask)
            mask = cache("scan mask", told).hold(paths, parts.part("mask"))
            mask.read()
            marks = cache("scan marks", told).get(paths, parts.part("marks")).tolist()
        mine.loaded.clear()
        parts.ready.clear()
        i, j, k = (int(n) for n in place[4, :3])
        return Stack(
            held,
            mask,
            tuple(mine.sequences),
            tuple(spacing_of(g.affine) for g in mine.grids.values()),
            np.array(place[:4], dtype=np.float64),
            (i, j, k),
            marks[0] if marks else 1.0,
            tuple(int(n) for n in marks[1:]),
        )

    def _made(self, mine: _Mine, boxing: int) -> dict[str, Array]:
        """The arrays of one patient: the stack, its place, the mask, and what is marked in it."""
        volumes = {
            m: mine.loaded.get(m) or self.readers[m].volume(p) for m, p in mine.sequences.items()
        }
        classes = None
        if mine.mask is not None:
            classes = mine.loaded.get(MASK) or self._mask(mine.mask)

        def work() -> Framed:
            return framed_scan(volumes, classes, self.recipe, boxing)

        framed = guarded(mine.paths[0], "volumes that can be resampled", work)
        place = np.vstack([framed.affine, [*framed.stack.shape[1:], 0.0]])
        parts: dict[str, Array] = {"stack": framed.stack, "place": place}
        if framed.tissues is not None:
            counts = np.bincount(framed.tissues.ravel(), minlength=len(self.codes))
            parts |= {"mask": framed.tissues, "marks": np.array([framed.kept, *counts])}
        return parts

    def _require_mask(self, mask: Paths, first: Grid, loaded: dict[str, Volume]) -> None:
        """Refuse a mask that says nothing about the scan; its classes are in ``loaded`` if it had
        to be read.

        Raises:
            DataRejected: ``bad_mask``.
        """
        reader = next(iter(self.readers.values()))

        def make() -> npt.NDArray[np.float64]:
            loaded[MASK] = self._mask(mask)
            return Grid.of(loaded[MASK]).packed()

        cache = reader.cache("mask", {"codes": list(self.codes), "layout": False})
        grid = Grid.unpacked(cache.get(mask, make))
        try:
            reader.require_joined(mask, grid, first)
        except DataRejected as error:
            raise _bad_mask(error) from None

    def _mask(self, paths: Paths) -> Volume:
        """The classes of a mask file.

        Raises:
            DataRejected: ``bad_mask``.
        """
        try:
            volume = read_nifti(paths[0], mask=True)
            return guarded(paths[0], "a mask", lambda: classes_of(volume, self.codes))
        except DataRejected as error:
            raise _bad_mask(error) from None


def _bad_mask(error: DataRejected) -> DataRejected:
    """The refusal of a mask, whatever is wrong with it."""
    return DataRejected(
        "bad_mask",
        file_hash=error.file_hash,
        expected="a mask with the study's codes in the place of the scan",
        got=error.got,
        remedy=error.remedy,
    )
