"""Kind ``image``: one film per patient, from DICOM, PNG or JPEG files.

Every film is opened, checked and framed when the cohort opens, several at a time, and its picture
is kept in the site's cache: a bad file costs itself before a round starts, and an epoch reads
pictures, not films. Of several films of a patient the first by name that can be read is used.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from polyclinic.data.cache import ArrayCache, Held, content_of
from polyclinic.data.column import Column, Reading, Request, require_agreement
from polyclinic.data.files import FILM_SUFFIXES, FileTable, PatientFile, read_files
from polyclinic.data.film import read_film
from polyclinic.data.framing import (
    ImageRecipe,
    Pixels,
    augmentation,
    content,
    framed,
    grey,
    pack,
    unpack,
)
from polyclinic.data.quarantine import REASONS, Entry, file_hash
from polyclinic.data.recipe import parse_recipe
from polyclinic.data.suppression import cell, quartiles
from polyclinic.errors import DataRejected, StudyError
from polyclinic.study import Modality

# A film of 40 megapixels takes some 500 MB while it is decoded.
MOST_AT_ONCE = 4


@dataclass(frozen=True)
class Picture:
    """One film of a patient.

    Attributes:
        native: height and width of the film itself.
    """

    held: Held
    native: tuple[int, int]


@dataclass(frozen=True)
class ImageColumn:
    """Pictures of P patients; ``None`` where a patient has none."""

    pictures: tuple[Picture | None, ...] = field(repr=False)
    recipe: ImageRecipe

    @property
    def row_bytes(self) -> int:
        """Bytes of one patient's inputs, float32."""
        return 4 * math.prod(self.recipe.size)

    @property
    def present(self) -> Tensor:
        """Patients with a film; (P,) bool."""
        return torch.tensor([p is not None for p in self.pictures], dtype=torch.bool)

    def prepared(self, train: Tensor) -> "ImageColumn":
        """The same pictures: each is normalised by itself."""
        return self

    def collate(
        self, rows: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, 1, H, W) and who has a film (B, 1); augmented where there is a generator.

        Each row draws one number whether or not it has a film, so that the pictures of others do
        not depend on it.
        """
        inputs = torch.zeros((rows.numel(), 1, *self.recipe.size))
        augment = self.recipe.augment
        random = None
        if augment is not None and generator is not None:
            random = augmentation(augment, self.recipe.size)
            seeds = torch.randint(2**31, (rows.numel(),), generator=generator).tolist()
        chosen = [self.pictures[row] for row in rows.tolist()]
        for i, picture in enumerate(chosen):
            if picture is None:
                continue
            pixels, native = unpack(picture.held.read(), self.recipe)
            inputs[i, 0] = grey(pixels, native, self.recipe)
            if random is not None:
                random.set_random_state(seed=seeds[i])
                inputs[i] = random(inputs[i]).as_tensor()
        return inputs, torch.tensor([[p is not None] for p in chosen], dtype=torch.bool)

    def summary(self, minimum: int) -> dict[str, int | float | str]:
        """Films, and quartiles of their heights and widths."""
        sizes = [p.native for p in self.pictures if p is not None]
        told: dict[str, int | float | str] = {"films": cell(len(sizes), minimum)}
        for name, lengths in zip(("height", "width"), zip(*sizes, strict=True), strict=False):
            found = quartiles(lengths, minimum)
            if found:
                told[name] = f"{found['q1']:g} to {found['q3']:g} px (quartiles)"
        return told


def read(request: Request) -> Reading:
    """The films of a folder, one per patient, framed and kept in the site's cache.

    Raises:
        StudyError: the recipe is not valid, or asks for channels that a film does not have.
        DataError: no folder.
        DataRejected: the table of files as a whole is refused.
        SiteError: the cache folder is full or cannot be written.
    """
    require_agreement(request)
    recipe = recipe_of(request.name, request.modality)
    table = read_files(request, FILM_SUFFIXES)
    reader = _Films(request, recipe, table)
    found = reader.all()
    entries = (*table.entries, *(e for f in found for e in f.entries))
    column = ImageColumn(tuple(f.picture for f in found), recipe)
    return Reading(
        column,
        entries,
        duplicates=table.duplicates,
        outside=table.outside,
        notes=_notes(found, table),
    )


def recipe_of(name: str, modality: Modality) -> ImageRecipe:
    """The checked recipe of an image modality.

    Raises:
        StudyError: it is not valid, or the modality has other than one channel.
    """
    if modality.width != 1:
        raise StudyError(
            expected=f"one channel in image '{name}'",
            got=f"{modality.width}",
            remedy="leave dim and features out: a film is grey",
        )
    return parse_recipe(ImageRecipe, name, modality.recipe)


@dataclass(frozen=True)
class _Found:
    """What became of one patient's films."""

    picture: Picture | None = None
    fingerprint: bytes = b""
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class _Films:
    """The films of a request and how they are read."""

    request: Request
    recipe: ImageRecipe
    table: FileTable
    cache: ArrayCache = field(init=False)

    def __post_init__(self) -> None:
        decides = {"kind": "image", "burned_in": self.request.source.burned_in}
        cache = ArrayCache(self.request.cache, decides | self.recipe.decoding)
        object.__setattr__(self, "cache", cache)

    def all(self) -> list[_Found]:
        """The first readable film of every patient, several at a time, in the order of ids."""
        found = []
        with ThreadPoolExecutor(min(MOST_AT_ONCE, os.cpu_count() or 1)) as pool:
            for one in pool.map(self.first, self.request.ids):
                found.append(one)
                self.request.tick(1)
        return found

    def first(self, pseudonym: str) -> _Found:
        """The first film of a patient that can be read, and those that were refused before it."""
        entries: list[Entry] = []
        for file in self.table.files.get(pseudonym, ()):
            try:
                picture, fingerprint = self.one(file)
            except DataRejected as error:
                reference = error.file_hash or "file table"
                name = self.request.name
                entries.append(Entry(error.reason, name, reference, patient=pseudonym))
                continue
            return _Found(picture, fingerprint, tuple(entries))
        return _Found(entries=tuple(entries))

    def one(self, file: PatientFile) -> tuple[Picture, bytes]:
        """One film, and a fingerprint of its pixels.

        Raises:
            DataRejected: the film is refused.
        """
        make = partial(decoded, file.path, self.recipe, self.request.source.burned_in)
        held = self.cache.hold(file.path, make)
        packed = held.read()
        return Picture(held, unpack(packed, self.recipe)[1]), content_of(packed)


def decoded(path: Path, recipe: ImageRecipe, burned_in: str) -> Pixels:
    """The packed picture of one file.

    Raises:
        DataRejected: the film is refused, or shows nothing.
    """
    film = read_film(path, burned_in=burned_in)
    native = (film.pixels.shape[0], film.pixels.shape[1])
    picture = framed(film.pixels, recipe)
    shown = picture[content(native, recipe)]
    if shown.min() == shown.max():
        raise DataRejected(
            "constant_image",
            file_hash=file_hash(path),
            expected="a film that shows something",
            got=REASONS["constant_image"],
            remedy="export the film again, or remove it",
        )
    return pack(picture, native)


def _notes(found: Sequence[_Found], table: FileTable) -> tuple[str, ...]:
    """What a person should know about the folder."""
    notes = []
    several = sum(len(files) > 1 for files in table.files.values())
    if several:
        notes.append(f"{several} patient(s) have several films; the first by name is used")
    prints = [f.fingerprint for f in found if f.fingerprint]
    if len(set(prints)) < len(prints):
        notes.append(f"{len(prints) - len(set(prints))} film(s) have exactly the pixels of another")
    if table.unlisted:
        notes.append(f"{table.unlisted} file(s) are not in the file table")
    return tuple(notes)


def absent(patients: int, modality: Modality) -> ImageColumn:
    """A column that no patient has."""
    return ImageColumn((None,) * patients, recipe_of("image", modality))


def join(columns: Sequence[Column]) -> ImageColumn:
    """The columns of several sites, one below the other."""
    parts = [cast(ImageColumn, c) for c in columns]
    return ImageColumn(tuple(p for part in parts for p in part.pictures), parts[0].recipe)
