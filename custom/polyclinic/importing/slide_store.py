"""The features of one slide on disk, in the layout of TRIDENT or STAMP, with where they come from.

TRIDENT  ``<mag>x_<px>px_<overlap>px_overlap/features_<extractor>/<slide>.h5``: ``features``,
         ``coords`` (pixels of level 0); ``.../patches/<slide>_patches.h5``: ``coords``
STAMP    ``<slide>.h5``: ``feats``, ``coords`` (micrometres)

Guarantees:
    * A file is whole or absent: it is written beside its place and renamed.
    * HDF5's checksums are on: a bit that turns over on the disk makes the file unreadable.
    * No name of a file, of a person or of a device is written.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from polyclinic import __version__
from polyclinic.data.slide import DATASET, read_slide
from polyclinic.data.slide_image import SlideImage
from polyclinic.data.tiles import Corners, TilePlan, Tiling
from polyclinic.errors import DataRejected, SiteError
from polyclinic.importing.pseudonym import keyed
from polyclinic.models.patch_trunk import WIDTH, Extractor
from polyclinic.storage import sync_folder

Layout = Literal["trident", "stamp"]
CHUNK = 1024
# Bytes of a disk that stay free.
RESERVE = 1 << 28


@dataclass(frozen=True)
class Store:
    """Where the slides of one import go.

    Attributes:
        root: of the import.
        features: folder of the feature files.
        table: ``slides.csv``.
        pictures: folder of the pictures.
        settings: hash of everything that decides what is written into a file.
    """

    root: Path
    layout: Layout
    tiling: Tiling
    extractor: Extractor

    @property
    def base(self) -> Path:
        """What ``folder`` of a site's ``polyclinic.yaml`` names."""
        return self.root / self.tiling.folder if self.layout == "trident" else self.root

    @property
    def features(self) -> Path:
        """Folder of the feature files."""
        if self.layout == "trident":
            return self.base / f"features_{self.extractor.name}"
        return self.base

    @property
    def settings(self) -> str:
        """Hash of everything but the slide that decides what is written into a file."""
        facts = {**asdict(self.tiling), "weights": self.extractor.sha256, "layout": self.layout}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def file(self, slide: str) -> Path:
        """The feature file of a slide."""
        return self.features / f"{slide}.h5"

    def source(self, slide: SlideImage, key: bytes) -> str:
        """What tells this slide's content and resolution; with the site's key, so that nobody
        outside can match it with a public slide."""
        return keyed(key, "slide content", f"{slide.identity()}/{slide.mpp:.6g}")

    def finished(self, name: str, source: str) -> int:
        """Tiles of a file that is whole and was made of the same content by the same settings;
        0 when it has to be made."""
        path = self.file(name)
        if not path.is_file():
            return 0
        try:
            with h5py.File(path, "r") as file:
                if (file.attrs["source"], file.attrs["settings"]) != (source, self.settings):
                    return 0
            slide = read_slide(path, self.layout, WIDTH, self.extractor.name)
        except (DataRejected, OSError, KeyError, ValueError, RuntimeError):
            return 0
        return len(slide.features)

    @contextmanager
    def writing(self, name: str, plan: TilePlan, source: str) -> Iterator[Any]:
        """An open dataset (n, 256) to fill; the file takes its place when the block ends well.

        Raises:
            SiteError: the disk is full or the folder cannot be written.
        """
        _require_room(self.root, len(plan.corners) * WIDTH * 4)
        attributes = {**provenance(self.extractor, plan), "source": source}
        attributes["settings"] = self.settings
        with _replaced(self.file(name)) as file:
            shape = (len(plan.corners), WIDTH)
            chunks = (min(CHUNK, shape[0]), WIDTH)
            dataset = file.create_dataset(
                DATASET[self.layout], shape, np.float32, chunks=chunks, fletcher32=True
            )
            _coords(file, plan, self.layout)
            file.attrs.update(attributes)
            yield dataset

    def write_patches(self, name: str, plan: TilePlan) -> None:
        """TRIDENT's file of coordinates without features.

        Raises:
            SiteError: the disk is full or the folder cannot be written.
        """
        with _replaced(self.base / "patches" / f"{name}_patches.h5") as file:
            _coords(file, plan, self.layout)


def provenance(extractor: Extractor, plan: TilePlan) -> dict[str, Any]:
    """Where features come from, as attributes of their file (names of STAMP where it has them)."""
    tiling = plan.tiling
    return {
        "extractor": extractor.name,
        "weights_sha256": extractor.sha256,
        "unit": "um",
        "mpp": tiling.mpp,
        "tile_size_um": tiling.tile_um,
        "tile_size_px": tiling.tile_px,
        "overlap_px": tiling.overlap_px,
        "mpp_level0": tiling.mpp / plan.scale,
        "feat_type": "tile",
        "polyclinic_version": __version__,
    }


def _coords(file: Any, plan: TilePlan, layout: Layout) -> None:
    """The top left corners of the tiles, and TRIDENT's attributes of them."""
    tiling = plan.tiling
    coords: Any = plan.corners_level0
    if layout == "stamp":
        coords = (plan.corners * tiling.mpp).astype(np.float32)
    chunks = (min(CHUNK, len(coords)), 2)
    dataset = file.create_dataset("coords", data=coords, chunks=chunks, fletcher32=True)
    attributes: Mapping[str, Any] = {
        "patch_size": tiling.tile_px,
        "patch_size_level0": round(tiling.tile_px * plan.scale),
        "level0_magnification": round(10 * plan.scale / tiling.mpp, 2),
        "target_magnification": round(10 / tiling.mpp, 2),
        "overlap": tiling.overlap_px,
    }
    dataset.attrs.update(attributes)


def _require_room(folder: Path, size: int) -> None:
    """Refuse to begin a file that would fill the disk.

    Raises:
        SiteError: less than its size and ``RESERVE`` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise unwritable(f"{free >> 20} MiB free")


def unwritable(got: str) -> SiteError:
    """The error for a folder that cannot be written."""
    return SiteError(
        expected="room and permission to write in the folder of the import",
        got=got,
        remedy="free space or mend the permissions, then run the same command again",
    )


@contextmanager
def _replaced(path: Path) -> Iterator[Any]:
    """A new H5 file that takes the place of ``path`` when the block ends well.

    Raises:
        SiteError: the disk is full or the folder cannot be written.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        with h5py.File(name, "w") as file:
            yield file
        with open(name, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
        sync_folder(path.parent)
    except OSError as error:
        got = os.strerror(error.errno) if error.errno else type(error).__name__
        raise unwritable(got) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)


def corners_um(path: Path, layout: Layout) -> tuple[Corners, float]:
    """For pictures: top left of each tile of a feature file in micrometres, (n, 2), and a tile's
    edge in micrometres.

    Raises:
        OSError: not an H5 file.
        KeyError: it was not written by this package.
    """
    with h5py.File(path, "r") as file:
        scale = 1.0 if layout == "stamp" else float(file.attrs["mpp_level0"])
        return file["coords"][()] * scale, float(file.attrs["tile_size_um"])
