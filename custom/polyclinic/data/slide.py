"""One slide's instance features from an H5 file in the CLAM, TRIDENT or STAMP layout.

CLAM     ``h5_files/<slide>.h5``                   dataset ``features`` (n, d)
TRIDENT  ``features_<encoder>/<slide>.h5``         dataset ``features`` (n, d) or (1, n, d);
         in ``<mag>x_<px>px_<overlap>px_overlap``
STAMP    ``<slide>.h5``                            dataset ``feats`` (n, d)

What such a file says about its making is read by ``polyclinic.data.slide_origin``. CLAM's
``pt_files`` are pickles, which are programs, and are not read: the same features lie in its
``h5_files``.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from polyclinic.data.quarantine import REASONS, file_hash, is_pipe
from polyclinic.data.slide_origin import BagRecipe, Origin, origin_of
from polyclinic.errors import DataError, DataRejected

DATASET = {"clam": "features", "trident": "features", "stamp": "feats"}
MICROMETRES = frozenset({"um", "µm", "μm"})
# Of one slide as float32, and of one chunk of its file: 100 000 tiles of 2560 numbers.
MAX_BYTES = 1 << 30
ANY_TILES = BagRecipe()
UNSAID = Origin()


@dataclass(frozen=True)
class Slide:
    """The features of one slide.

    Attributes:
        features: (n, d) float32, finite.
        origin: what the file says about its making.
    """

    features: npt.NDArray[np.float32]
    origin: Origin = UNSAID

    @property
    def tile_um(self) -> float:
        """Edge of a tile in micrometres; 0 where the file does not say."""
        return self.origin.tile_um

    @property
    def stated(self) -> bool:
        """Whether the file names its extractor."""
        return bool(self.origin.extractor)


class _Flaw(Exception):
    """Why a file is refused, before its hash is known."""

    def __init__(self, reason: str, got: str) -> None:
        self.reason, self.got = reason, got


def slide_folder(folder: Path, layout: str, extractor: str) -> Path:
    """The folder that holds the H5 files themselves.

    Raises:
        DataError: no such folder, or several encoders and none is the declared one.
    """
    if layout == "clam" and (folder / "h5_files").is_dir():
        return folder / "h5_files"
    if layout == "trident":
        folder = _encoder_folder(_scale_folder(folder), extractor)
    if not folder.is_dir():
        raise DataError(
            expected="the folder of a modality's files",
            got="no such folder",
            remedy="correct 'folder' in polyclinic.yaml",
        )
    _require_h5(folder)
    return folder


def _require_h5(folder: Path) -> None:
    """Refuse a folder of CLAM's pickles in place of its H5 files.

    Raises:
        DataError: there are only such.
    """
    if any(folder.glob("*.h5")):
        return
    if any(folder.glob("*.pt")) or any(folder.glob("pt_files/*.pt")):
        raise DataError(
            expected="features in H5 files, as in CLAM's 'h5_files'",
            got="'.pt' files only, which are pickles and may hold programs",
            remedy="bring the folder 'h5_files' of the same extraction",
        )


def _scale_folder(folder: Path) -> Path:
    """TRIDENT's ``<mag>x_<px>px_<overlap>px_overlap``: the folder itself, or the one inside it.

    Raises:
        DataError: it holds several.
    """
    inner = [p for p in folder.glob("*x_*px_*px_overlap") if p.is_dir()]
    if len(inner) > 1:
        raise DataError(
            expected="features of one magnification and tile size",
            got=f"{len(inner)} folders of such",
            remedy="name one of them as 'folder' in polyclinic.yaml",
        )
    return inner[0] if inner else folder


def _encoder_folder(folder: Path, extractor: str) -> Path:
    """TRIDENT's ``features_<encoder>``: the folder itself, or the declared one inside it.

    Raises:
        DataError: the folder's name says another encoder than the site declares.
    """
    inner = sorted(p for p in folder.glob("features_*") if p.is_dir())
    choices = inner or [folder]
    named = [p for p in choices if p.name == f"features_{extractor}"]
    spoken = [p for p in choices if p.name.startswith("features_")]
    if spoken and not named and (extractor or len(spoken) > 1):
        raise DataError(
            expected=f"features of the declared extractor '{extractor}'",
            got=", ".join(sorted(f"'{p.name}'" for p in spoken)[:5]),
            remedy="declare the encoder that made the features as 'extractor' in polyclinic.yaml",
        )
    return (named or choices)[0]


def read_slide(
    path: Path, layout: str, width: int, extractor: str, recipe: BagRecipe = ANY_TILES
) -> Slide:
    """The features of one file.

    Args:
        width: d that the study fixes.
        extractor: that the site declares; "" checks nothing.
        recipe: size and resolution of tiles that the study fixes.

    Raises:
        DataRejected: with a reason code and the hash of the file; never its name.
    """
    try:
        if is_pipe(path):
            raise _Flaw("unreadable", "a pipe or a device")
        with h5py.File(path, "r") as file:
            return _checked(file, DATASET[layout], width, extractor, recipe)
    except _Flaw as flaw:
        reason, got = flaw.reason, flaw.got
    except FileNotFoundError:
        reason, got = "missing_file", "no such file"
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        # Everything the HDF5 library raises on a damaged file.
        reason, got = "unreadable", type(error).__name__
    raise DataRejected(
        reason,
        file_hash=file_hash(path),
        expected=f"an H5 file of the {layout} layout",
        got=f"{REASONS[reason]} ({got})",
        remedy="extract the slide's features again",
    )


def _checked(file: Any, name: str, width: int, extractor: str, recipe: BagRecipe) -> Slide:
    """The features of an open file, or the first flaw."""
    dataset = _dataset(file, name)
    shape = tuple(int(n) for n in dataset.shape)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2:
        raise _Flaw("wrong_shape", f"{len(shape)} dimensions")
    if dataset.dtype.kind not in "fiu":
        raise _Flaw("wrong_dtype", f"kind '{dataset.dtype.kind}'")
    if shape[0] == 0:
        raise _Flaw("empty_file", "0 instances")
    if shape[1] != width:
        raise _Flaw("wrong_width", f"{shape[1]} numbers for {width}")
    chunk = math.prod(dataset.chunks or ())
    if max(math.prod(shape), chunk) * max(4, dataset.dtype.itemsize) > MAX_BYTES:
        raise _Flaw("too_large", f"{shape[0]} instances")
    origin = origin_of(file, dataset)
    _require_origin(origin, extractor, recipe)
    with np.errstate(over="ignore", invalid="ignore"):
        features = np.asarray(dataset[()]).reshape(shape).astype(np.float32)
    if not np.isfinite(features).all():
        raise _Flaw("not_finite", f"{int((~np.isfinite(features)).sum())} values")
    return Slide(features, origin)


def _require_origin(origin: Origin, extractor: str, recipe: BagRecipe) -> None:
    """Raise the first flaw of what a file says about its making."""
    if origin.extractor and extractor and origin.extractor != extractor:
        raise _Flaw("extractor_mismatch", "another name")
    if origin.unit and origin.unit.lower() not in MICROMETRES:
        raise _Flaw("unit_mismatch", "another unit")
    if origin.kind and origin.kind != "tile":
        raise _Flaw("wrong_shape", "one row for a slide or patient")
    if different := recipe.differs(origin):
        raise _Flaw("tile_mismatch", different)


def _dataset(file: Any, name: str) -> Any:
    """The dataset itself; one that points into other files would read what nobody checked."""
    link = file.get(name, getlink=True)
    if link is None:
        raise _Flaw("no_dataset", f"no '{name}'")
    if not isinstance(link, h5py.HardLink):
        raise _Flaw("linked_data", "a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise _Flaw("no_dataset", f"'{name}' is a group")
    if dataset.is_virtual or dataset.external:
        raise _Flaw("linked_data", "external storage")
    return dataset
