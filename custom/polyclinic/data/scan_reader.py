"""The stacks of a segmentation's patients from their files, each file checked on its way.

A damaged sequence costs itself; without a mask that can be read a patient is neither trained on
nor scored, since nothing says what would be right.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

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

Array = npt.NDArray[np.generic]
AFFINE = 16


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
        mine = self.listed.sequences.get(pseudonym, {})
        mask = self.listed.masks.get(pseudonym)
        if mine and self.codes and mask is None:
            return Found(None, (Entry("no_mask", "mask", "a patient", patient=pseudonym),))
        entries: list[Entry] = []
        grids: dict[str, Grid] = {}
        loaded: dict[str, Volume] = {}
        for name, reader in self.readers.items():
            if name not in mine:
                continue
            try:
                grid = reader.grid(mine[name], name, loaded)
                reader.require_joined(mine[name], grid, next(iter(grids.values()), grid))
                grids[name] = grid
            except DataRejected as error:
                entries.append(reader.entry(error, pseudonym))
        stack = None
        if grids:
            try:
                stack = self._stack({m: mine[m] for m in grids}, grids, mask, loaded)
            except DataRejected as error:
                name = "mask" if error.reason == "bad_mask" else next(iter(grids))
                reference = error.file_hash or "a file of the folder"
                entries.append(Entry(error.reason, name, reference, patient=pseudonym))
        return Found(stack, tuple(entries), tuple(grids.values()))

    def _stack(
        self,
        mine: Mapping[str, Paths],
        grids: Mapping[str, Grid],
        mask: Paths | None,
        loaded: dict[str, Volume],
    ) -> Stack:
        """The stack and the mask, made if they are not in the cache.

        Raises:
            DataRejected: ``bad_mask``, or the volumes cannot be brought onto one grid.
        """
        first_name, first = next(iter(grids.items()))
        if self.codes and mask is not None:
            self._require_mask(mask, first, loaded)
        boxing = sum(1 for m in list(self.readers)[: self.trained_on] if m in mine) or len(mine)
        parts: dict[str, Array] = {}

        def made(what: str) -> Array:
            ready = parts.pop(what, None)  # made with the part that was asked for before
            if ready is None:
                fresh = self._made(mine, mask, boxing, loaded)
                ready = fresh.pop(what)
                parts.update(fresh)
            return ready

        flat = tuple(p for paths in mine.values() for p in paths)
        # Which sequences the files are decides the stack as much as the files.
        told = {"sequences": list(mine), "boxing": boxing, **self.recipe.decoding}
        cache = self.readers[first_name].cache
        held = cache("scan", told).hold(flat, lambda: made("stack"))
        held.read()
        masked, all_files = None, flat
        if self.codes and mask is not None:
            told, all_files = {**told, "codes": list(self.codes)}, (*flat, *mask)
            masked = cache("scan mask", told).hold(all_files, lambda: made("mask"))
            masked.read()
        facts = cache("scan facts", told).get(all_files, lambda: made("facts")).tolist()
        loaded.clear()
        parts.clear()
        lengths = tuple(int(n) for n in facts[AFFINE : AFFINE + 3])
        return Stack(
            held,
            masked,
            tuple(mine),
            tuple(spacing_of(g.affine) for g in grids.values()),
            np.array(facts[:AFFINE]).reshape(4, 4),
            (lengths[0], lengths[1], lengths[2]),
            float(facts[AFFINE + 3]),
            tuple(int(n) for n in facts[AFFINE + 4 :]),
        )

    def _made(
        self,
        mine: Mapping[str, Paths],
        mask: Paths | None,
        boxing: int,
        loaded: Mapping[str, Volume],
    ) -> dict[str, Array]:
        """The arrays of one patient: stack, mask and facts."""
        volumes = {m: loaded.get(m) or self.readers[m].volume(p) for m, p in mine.items()}
        classes = None
        if self.codes and mask is not None:
            classes = loaded.get(MASK) or self._mask(mask)
        paths = next(iter(mine.values()))

        def work() -> Framed:
            return framed_scan(volumes, classes, self.recipe, boxing)

        framed = guarded(paths[0], "volumes that can be resampled", work)
        told = [*framed.affine.ravel().tolist(), *framed.stack.shape[1:], framed.kept]
        parts: dict[str, Array] = {"stack": framed.stack}
        if framed.tissues is not None:
            parts["mask"] = framed.tissues
            told += np.bincount(framed.tissues.ravel(), minlength=len(self.codes)).tolist()
        return {**parts, "facts": np.array(told, dtype=np.float64)}

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
