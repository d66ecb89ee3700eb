"""The public lower-grade gliomas as they are downloaded, or packed as slices of 128 pixels.

* ``Folders``: what the set on Kaggle unpacks to: ``kaggle_3m/TCGA_DU_5849_19950405/`` with
  ``TCGA_DU_5849_19950405_1.tif`` (256 pixels; red T1 before contrast, green FLAIR, blue T1 after
  it) and ``..._1_mask.tif`` for each slice. They are halved, and of a patient at most 28 slices are
  kept, evenly spaced, of those that show something.
* ``Packed``: the same after that. ``patients.csv``: ``patient``, ``hospital``, ``has_pre``,
  ``has_flair``, ``has_post`` (1 or 0). ``slices.csv``: ``patient``, ``slice``, ``name``. An archive
  for each hospital, as ``DU.zip``, with ``NAME.webp`` and ``NAME_mask.png``.
"""

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from download import file_in
from polyclinic.cli import output
from polyclinic.errors import DataError

# Channels of a picture. A sequence that was never made is a copy of FLAIR.
SEQUENCES = ("pre", "flair", "post")
FLAIR = SEQUENCES.index("flair")
EDGE = 128
# Share of a slice that must be brighter than this in FLAIR, of 255, to show something.
BRIGHT, LEAST_SHOWN = 20, 0.02
MOST_SLICES = 28
# Where the folders of patients lie in what the archive unpacks to.
INSIDE = (".", "kaggle_3m", "lgg-mri-segmentation/kaggle_3m")
# What Pillow raises of a damaged picture, and of one that claims to be huge.
DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    NotImplementedError,
    zlib.error,
    Image.DecompressionBombError,
)

Bytes = npt.NDArray[np.uint8]


class Gliomas(Protocol):
    """A download.

    Attributes:
        people: by patient ``hospital`` and ``has_pre``, ``has_flair``, ``has_post`` (1 or 0).
        slices: names of the slices of each patient, in order.
    """

    people: pd.DataFrame
    slices: dict[str, list[str]]

    def read(self, patient: str) -> tuple[Bytes, Bytes]:
        """Pictures (K, 128, 128, 3) and masks (K, 128, 128) of 0 and 1."""
        ...


def opened(source: Path) -> Gliomas:
    """The download in a folder, in whichever form it is.

    Raises:
        DataError: it is in neither, or a part of it is missing.
    """
    if (source / "patients.csv").is_file():
        return Packed.of(source)
    for place in INSIDE:
        folders = sorted(p for p in (source / place).glob("TCGA_*_*_*") if p.is_dir())
        if folders:
            return _folders(folders)
    raise DataError(
        expected="kaggle_3m, with a folder for each patient, or patients.csv",
        got="a folder with neither",
        remedy="docs/quickstart.md says where the download is from",
    )


@dataclass(frozen=True)
class Packed:
    """``patients.csv``, ``slices.csv`` and an archive of pictures for each hospital."""

    people: pd.DataFrame
    slices: dict[str, list[str]]
    source: Path

    @classmethod
    def of(cls, source: Path) -> "Packed":
        """The tables.

        Raises:
            DataError: one is missing.
        """
        try:
            people = pd.read_csv(file_in(source, "patients.csv")).set_index("patient").sort_index()
            table = pd.read_csv(file_in(source, "slices.csv")).sort_values(["patient", "slice"])
            slices = {str(p): list(mine["name"]) for p, mine in table.groupby("patient")}
            people[["hospital", *(f"has_{s}" for s in SEQUENCES)]]
        except (KeyError, ValueError) as error:
            raise _unreadable("patients.csv and slices.csv", error) from None
        return cls(people[people.index.isin(slices)], slices, source)

    def read(self, patient: str) -> tuple[Bytes, Bytes]:
        """As ``Gliomas`` has it.

        Raises:
            DataError: a picture cannot be read.
        """
        names = self.slices[patient]
        archive = file_in(self.source, f"{self.people.loc[patient, 'hospital']}.zip")
        try:
            with zipfile.ZipFile(archive) as pictures:
                shown = [
                    _picture(io.BytesIO(pictures.read(f"{n}.webp")), "RGB", EDGE) for n in names
                ]
                marked = [
                    _picture(io.BytesIO(pictures.read(f"{n}_mask.png")), "L", EDGE) for n in names
                ]
        except (*DAMAGED, KeyError, zipfile.BadZipFile) as error:
            raise _unreadable(archive.name, error) from None
        return np.stack(shown), _binary(marked)


@dataclass(frozen=True)
class Folders:
    """A folder of TIFF files for each patient; ``slices`` are paths without their ending."""

    people: pd.DataFrame
    slices: dict[str, list[str]] = field(repr=False)

    def read(self, patient: str) -> tuple[Bytes, Bytes]:
        """As ``Gliomas`` has it.

        Raises:
            DataError: a picture cannot be read.
        """
        names = self.slices[patient]
        try:
            shown = [_picture(Path(f"{n}.tif"), "RGB", 2 * EDGE) for n in names]
            marked = [_picture(Path(f"{n}_mask.tif"), "L", 2 * EDGE) for n in names]
        except DAMAGED as error:
            raise _unreadable(f"the pictures of {patient}", error) from None
        return np.stack([_halved(s) for s in shown]), _binary([_halved(m) for m in marked])


def _folders(places: Sequence[Path]) -> Folders:
    """Look at every picture once: which slices show something, which sequences were made."""
    people: dict[str, dict[str, object]] = {}
    slices: dict[str, list[str]] = {}
    with output.progress("looking at slices", len(places)) as advance:
        for place in places:
            patient, _, _ = place.name.rpartition("_")  # the date of the scan
            if patient in slices:
                raise DataError(
                    expected="one folder for each patient",
                    got=f"two of {patient}",
                    remedy="keep the download as it was unpacked",
                )
            shown, slices[patient] = _slices(place)
            made = {f"has_{s}": int(any(f[i] for _, f in shown)) for i, s in enumerate(SEQUENCES)}
            people[patient] = {"hospital": patient.split("_")[1], **made}
            advance(1)
    table = pd.DataFrame.from_dict(people, orient="index").rename_axis("patient").sort_index()
    return Folders(table, slices)


def _slices(place: Path) -> tuple[list[tuple[float, tuple[bool, ...]]], list[str]]:
    """Of every slice how much it shows and which sequences are not FLAIR's copy; those kept."""
    numbers = {
        int(path.stem.rpartition("_")[2]): path
        for path in place.glob("*.tif")
        if path.stem.rpartition("_")[2].isdecimal()
    }
    ordered = [path for _, path in sorted(numbers.items())]
    try:
        looked = [_look(_picture(path, "RGB", 2 * EDGE)) for path in ordered]
    except DAMAGED as error:
        raise _unreadable(f"a picture in {place.name}", error) from None
    kept = [
        str(path.with_suffix(""))
        for path, (bright, _) in zip(ordered, looked, strict=True)
        if bright >= LEAST_SHOWN
    ]
    if not kept:
        raise DataError(
            expected=f"slices that show something in {place.name}",
            got=f"none of {len(ordered)}",
            remedy="download it again",
        )
    if len(kept) > MOST_SLICES:
        places = np.linspace(0, len(kept) - 1, MOST_SLICES).round().astype(int)
        kept = [kept[i] for i in places]
    return looked, kept


def _look(picture: Bytes) -> tuple[float, tuple[bool, ...]]:
    """Share of bright FLAIR, and whether each channel is a sequence of its own."""
    flair = picture[..., FLAIR]
    own = tuple(i == FLAIR or bool((picture[..., i] != flair).any()) for i in range(3))
    return float((flair > BRIGHT).mean()), own


def _picture(file: Path | io.BytesIO, mode: str, edge: int) -> Bytes:
    """One picture, (H, W) or (H, W, 3).

    Raises:
        OSError: it is none, or not of this size.
    """
    with Image.open(file) as image:
        if image.size != (edge, edge):
            raise OSError("another size")
        return np.asarray(image.convert(mode), dtype=np.uint8)


def _halved(picture: Bytes) -> Bytes:
    """Means of 2 x 2 pixels."""
    return np.asarray(Image.fromarray(picture).resize((EDGE, EDGE), Image.Resampling.BOX))


def _binary(masks: Sequence[Bytes]) -> Bytes:
    """1 where at least half of what a pixel stands for is marked."""
    return (np.stack(masks) > 127).astype(np.uint8)


def _unreadable(what: str, error: Exception) -> DataError:
    return DataError(
        expected=f"{what} as the set has it",
        got=type(error).__name__,
        remedy="download it again",
    )
