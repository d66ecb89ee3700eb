"""Kind ``bag``: a set of instance features per patient, from one or more slides.

A patient's slides are concatenated in the order of their names. A damaged file is quarantined
and the patient keeps what else there is. Features of a frozen network are used as they are: they
have no site statistics to standardise by.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polyclinic.data.column import Column, Reading, Request, require_agreement
from polyclinic.data.quarantine import Entry
from polyclinic.data.recipe import parse_recipe
from polyclinic.data.slide import read_slide, slide_folder
from polyclinic.data.slide_origin import BagRecipe, same_mpp
from polyclinic.data.slide_table import SlideTable, read_slide_table
from polyclinic.errors import DataError, DataRejected
from polyclinic.study import Modality

# Bags that together are smaller than this stay in memory.
CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Bag:
    """Where the instances of one patient are.

    Attributes:
        paths: files of the slides, in order.
        count: n, instances after any choice of them.
        kept: instances to keep, ascending, (k,) int64; ``None`` keeps all.
        cached: (n, d) float32 in memory, or ``None`` when read on demand.
    """

    paths: tuple[Path, ...] = field(repr=False)
    layout: str
    width: int
    count: int
    kept: Tensor | None = None
    cached: Tensor | None = field(default=None, repr=False)

    def instances(self) -> Tensor:
        """The instances; (n, d) float32.

        Raises:
            DataRejected: a file was damaged after the cohort was opened.
        """
        if self.cached is not None:
            return self.cached
        slides = [read_slide(p, self.layout, self.width, "").features for p in self.paths]
        every = torch.from_numpy(np.concatenate(slides))
        return every if self.kept is None else every[self.kept]


@dataclass(frozen=True)
class BagColumn:
    """Bags of P patients; ``None`` where a patient has none."""

    bags: tuple[Bag | None, ...]
    width: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one patient's inputs, float32: a batch is as wide as its largest bag."""
        return 4 * self.width * max((b.count for b in self.bags if b is not None), default=1)

    @property
    def present(self) -> Tensor:
        """Patients with a bag; (P,) bool."""
        return torch.tensor([b is not None for b in self.bags], dtype=torch.bool)

    def prepared(self, train: Tensor) -> "BagColumn":
        """The same bags: features are used as their extractor made them."""
        return self

    def collate(
        self, rows: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, N, D) padded with zeros to the longest bag, and which instances are there
        (B, N); N is at least 1."""
        nothing = torch.zeros((0, self.width))
        chosen = [self.bags[row] for row in rows.tolist()]
        found = [nothing if b is None else b.instances() for b in chosen]
        lengths = torch.tensor([f.shape[0] for f in found])
        longest = max(1, int(lengths.max())) if found else 1
        if longest == 1 and not lengths.any():
            return torch.zeros((len(found), 1, self.width)), torch.zeros((len(found), 1)).bool()
        return pad_sequence(found, batch_first=True), torch.arange(longest) < lengths[:, None]


def kept_instances(count: int, most: int, seed: int, pseudonym: str) -> Tensor | None:
    """Which instances to keep of ``count``, ascending, at most ``most``; ``None`` keeps all.

    Drawn from the study's seed and the patient, so that it does not depend on other patients.
    """
    if most == 0 or count <= most:
        return None
    digest = hashlib.sha256(f"instances/{seed}/{pseudonym}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    return torch.from_numpy(np.sort(generator.permutation(count)[:most]).astype(np.int64))


def read(request: Request) -> Reading:
    """The bags of a folder, joined to patients through its slide table.

    Raises:
        DataError: another extractor than the study's, or no folder.
        DataRejected: the slide table as a whole is refused.
    """
    require_agreement(request)
    recipe = parse_recipe(BagRecipe, request.name, request.modality.recipe)
    _require_resolution(request, recipe)
    source = request.source
    folder = slide_folder(request.root / source.folder, source.layout, source.extractor)
    table = read_slide_table(request, folder)
    collected = _Collected(request, recipe, list(table.entries))
    bags = tuple(collected.bag(pseudonym, table) for pseudonym in request.ids)
    notes = collected.notes(table)
    column = BagColumn(bags, request.modality.dim)
    return Reading(
        column,
        tuple(collected.entries),
        duplicates=table.duplicates,
        outside=table.outside,
        notes=notes,
    )


def _require_resolution(request: Request, recipe: BagRecipe) -> None:
    """Refuse a site whose tiles have another resolution than the study's.

    Raises:
        DataError: naming both.
    """
    declared = request.source.mpp
    if recipe.mpp and declared and not same_mpp(recipe.mpp, declared):
        raise DataError(
            expected=f"tiles of {recipe.mpp:g} micrometres per pixel in '{request.name}', as the "
            "study says",
            got=f"{declared:g} declared",
            remedy="tile and embed the slides anew at the study's resolution",
        )


@dataclass
class _Collected:
    """What reading one patient after the other adds up to."""

    request: Request
    recipe: BagRecipe
    entries: list[Entry]
    nbytes: int = 0
    tiles_um: set[float] = field(default_factory=set)
    unstated: int = 0
    silent: int = 0
    contents: set[bytes] = field(default_factory=set)
    twins: int = 0

    def bag(self, pseudonym: str, table: SlideTable) -> Bag | None:
        """The bag of a patient, or ``None`` when no slide of it can be read."""
        request = self.request
        layout, width = request.source.layout or "clam", request.modality.dim
        request.tick(1)
        paths, found = [], []
        for path in table.files.get(pseudonym, ()):
            try:
                slide = read_slide(path, layout, width, request.source.extractor, self.recipe)
            except DataRejected as error:
                reference = error.file_hash or "slide table"
                self.entries.append(Entry(error.reason, request.name, reference, patient=pseudonym))
                continue
            paths.append(path)
            found.append(slide.features)
            self.tiles_um |= {slide.tile_um} - {0.0}
            self.unstated += not slide.stated
            self.silent += self.recipe.silent(slide.origin)
            content = hashlib.sha256(slide.features.tobytes()).digest()
            self.twins += content in self.contents
            self.contents.add(content)
        if not found:
            return None
        every = torch.from_numpy(np.concatenate(found))
        most = request.modality.max_instances
        kept = kept_instances(every.shape[0], most, request.seed, pseudonym)
        instances = every if kept is None else every[kept]
        self.nbytes += instances.nbytes
        cached = instances if self.nbytes <= CACHE_BYTES else None
        return Bag(tuple(paths), layout, width, instances.shape[0], kept, cached)

    def notes(self, table: SlideTable) -> tuple[str, ...]:
        """What a person should know about the folder."""
        notes = []
        if len(self.tiles_um) > 1:
            sizes = ", ".join(f"{s:g}" for s in sorted(self.tiles_um))
            notes.append(f"tiles of different sizes in micrometres: {sizes}")
        if self.unstated and self.request.modality.extractor:
            notes.append(f"{self.unstated} file(s) do not name their extractor")
        if self.silent:
            notes.append(f"{self.silent} file(s) do not state the size or resolution of tiles")
        if self.twins:
            notes.append(f"{self.twins} slide(s) have exactly the features of another")
        if table.unlisted:
            notes.append(f"{table.unlisted} file(s) are not in the slide table")
        return tuple(notes)


def absent(patients: int, modality: Modality) -> BagColumn:
    """A column that no patient has."""
    return BagColumn((None,) * patients, modality.dim)


def join(columns: Sequence[Column]) -> BagColumn:
    """The columns of several sites, one below the other."""
    parts = [cast(BagColumn, c) for c in columns]
    return BagColumn(tuple(b for p in parts for b in p.bags), parts[0].width)
