"""Slides made into bags of features: tissue found, tiled, embedded, written with provenance.

Guarantees:
    * A slide that cannot be used is set aside with a reason and never stops the others.
    * A run that was stopped goes on where it was: a finished file of the same content and settings
      is kept, a broken one is made again.
    * Two runs into one folder do not meet: the second is refused.
    * Memory does not grow with the slide.
    * Output names are pseudonyms unless the user asks for names; labels are never read.
"""

import io
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polyclinic.data.quarantine import file_hash
from polyclinic.data.slide import MAX_BYTES
from polyclinic.data.slide_image import SlideImage, rejected
from polyclinic.data.slide_picture import outline
from polyclinic.data.tiles import Points, TilePlan, Tiling, plan_tiles, read_tiles
from polyclinic.data.tissue import Mask, Overview, overview, tissue_mask
from polyclinic.errors import DataRejected, StudyError
from polyclinic.importing.claim import claimed, require_apart
from polyclinic.importing.pseudonym import keyed, pseudonym
from polyclinic.importing.slide_files import SlideFile, find_slides, patients_of, stated_mpp
from polyclinic.importing.slide_outcome import (
    TABLE,
    SlideOutcome,
    State,
    write,
    write_quarantine,
    write_table,
)
from polyclinic.importing.slide_store import Layout, Store
from polyclinic.models.patch_trunk import WIDTH, Extractor
from polyclinic.storage import remove_leftovers


@dataclass(frozen=True, kw_only=True)
class SlideImport:
    """What is imported, and how.

    Attributes:
        folder: with the slides.
        site: the site's folder, which may hold other things.
        storage: of the site, where its key lies.
        modality: folder inside ``site`` that receives features, coordinates and pictures; made by
            an earlier import, or not there yet.
        mpp_table: CSV with columns ``wsi`` and ``mpp`` for slides that do not say, or say wrong.
        patients: CSV that says whose each slide is; without it slides are named for patients.
        keep_names: write names and patient ids as they are, where they are pseudonyms already.
        pictures: draw each slide with its tissue and tiles.
        threads: that read; the network has threads of its own.
    """

    folder: Path
    site: Path
    storage: Path
    modality: str = "wsi"
    tiling: Tiling = field(default_factory=Tiling)
    layout: Layout = "trident"
    mpp_table: Path | None = None
    patients: Path | None = None
    keep_names: bool = False
    pictures: bool = True
    threads: int = 2

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", self.modality):
            raise StudyError(
                expected="a modality's name of small letters, digits and _",
                got="another text",
                remedy="correct --modality",
            )

    @property
    def out(self) -> Path:
        """Folder that receives everything."""
        return self.site / self.modality

    @property
    def quarantine(self) -> Path:
        """File of the list of what was set aside; it stays at the site."""
        return self.storage / "quarantine" / f"import-{self.modality}.csv"


@dataclass(frozen=True)
class SlideReport:
    """What an import did."""

    store: Store = field(repr=False)
    outcomes: tuple[SlideOutcome, ...]

    def count(self, state: State) -> int:
        """Slides in a state."""
        return sum(o.state == state for o in self.outcomes)

    @property
    def trunk_share(self) -> float:
        """Share of the working time that the network took; 0 when nothing was made."""
        reading, network = (sum(o.seconds[i] for o in self.outcomes) for i in (0, 1))
        return network / (reading + network) if reading + network else 0.0


def import_slides(
    wanted: SlideImport,
    extractor: Extractor,
    told: Callable[[SlideOutcome, int], None] = lambda outcome, slides: None,
) -> SlideReport:
    """The report of an import.

    Args:
        told: called after each slide with its outcome and the number of slides in all.

    Raises:
        DataError: no slides, a table that cannot be used, or a folder with other content.
        SiteError: another import is at work, another key made the folder, or it cannot be written.
    """
    require_apart(wanted.folder, wanted.out, wanted.storage)
    store = Store(wanted.out, wanted.layout, wanted.tiling, extractor)
    files = find_slides(wanted.folder)
    mpp, patients = stated_mpp(wanted.mpp_table), patients_of(wanted.patients)
    outcomes: list[SlideOutcome] = []
    with claimed(wanted.out, wanted.storage) as key:
        work = _Work(wanted, store, key, mpp, patients)
        for folder in (store.features, store.base / "patches", wanted.out / "pictures"):
            remove_leftovers(folder)
        try:
            for file in files:
                outcomes.append(work.outcome(file))
                told(outcomes[-1], len(files))
        finally:
            # Also when the run is stopped: what is finished can be used.
            write_table(store.base / TABLE, outcomes)
            write_quarantine(wanted.quarantine, outcomes)
    return SlideReport(store, tuple(outcomes))


@dataclass(frozen=True)
class _Work:
    """What every slide of an import needs."""

    wanted: SlideImport
    store: Store
    key: bytes = field(repr=False)
    mpp: Mapping[str, float] = field(repr=False)
    patients: Mapping[str, str] | None = field(repr=False)

    def outcome(self, file: SlideFile) -> SlideOutcome:
        """What became of a slide; every refusal is one of its outcomes."""
        name = file.name if self.wanted.keep_names else f"s{keyed(self.key, 'slide', file.name)}"
        patient = file.name if self.patients is None else self.patients.get(file.name, "")
        if not self.wanted.keep_names:
            patient = pseudonym(self.key, patient)
        reason = "repeated_name" if file.repeated else "no_patient_id" if not patient else ""
        if reason:
            reference = file_hash(file.path)
            return SlideOutcome(name, patient, "refused", reason=reason, reference=reference)
        try:
            state, tiles, seconds = self._made(file, name)
        except DataRejected as error:
            return SlideOutcome(
                name, patient, "refused", reason=error.reason, reference=error.file_hash
            )
        return SlideOutcome(name, patient, state, tiles, seconds=seconds)

    def _made(self, file: SlideFile, name: str) -> tuple[State, int, tuple[float, float]]:
        """State, tiles and seconds of a slide whose features are on disk."""
        start = time.perf_counter()
        with SlideImage(file.path, self.mpp.get(file.name, 0.0)) as slide:
            source = self.store.source(slide, self.key)
            if tiles := self.store.finished(name, source):
                return "kept", tiles, (0.0, 0.0)
            view = overview(slide, self.wanted.threads)
            mask = tissue_mask(view)
            plan = self._plan(slide, view, mask, name)
            network = self._embed(slide, plan, name, source)
        return "made", len(plan.corners), (time.perf_counter() - start - network, network)

    def _plan(self, slide: SlideImage, view: Overview, mask: Mask, name: str) -> TilePlan:
        """The tiles of a slide, with its picture, which a slide without tissue has as well.

        Raises:
            DataRejected: see ``plan_tiles``; or more tiles than a bag may have.
        """
        try:
            plan = plan_tiles(slide, view, mask, self.wanted.tiling)
        except DataRejected as error:
            if error.reason == "no_tissue":
                self._draw(view, mask, np.zeros((0, 2)), name)
            raise
        if len(plan.corners) * WIDTH * 4 > MAX_BYTES:
            raise rejected(slide.path, "too_large", "too many tiles", "take larger tiles")
        self._draw(view, mask, plan.corners_um, name)
        return plan

    def _embed(self, slide: SlideImage, plan: TilePlan, name: str, source: str) -> float:
        """Write the features of all tiles; seconds that the network took."""
        if self.wanted.layout == "trident":
            self.store.write_patches(name, plan)
        seconds, at, batch = 0.0, 0, self.store.extractor.batch
        with self.store.writing(name, plan, source) as dataset:
            for block in read_tiles(slide, plan, self.wanted.threads):
                for tiles in np.split(block, range(batch, len(block), batch)):
                    start = time.perf_counter()
                    found = self.store.extractor.features(tiles)
                    seconds += time.perf_counter() - start
                    dataset[at : at + len(found)] = found
                    at += len(found)
        return seconds

    def _draw(self, view: Overview, mask: Mask, corners_um: Points, name: str) -> None:
        """Write the picture of a slide."""
        if not self.wanted.pictures:
            return
        image = outline(view, mask, corners_um, self.wanted.tiling.tile_um)
        content = io.BytesIO()
        image.save(content, "PNG")
        write(self.wanted.out / "pictures" / f"{name}.png", content.getvalue())
