"""One volume from a NIfTI file, .nii or .nii.gz, of either version.

Nothing a file claims is believed before it is bounded: the header is read alone, its promise is
compared with the bytes that can be there, and exactly the promised bytes are inflated. nibabel
reads the header, checks the scaling and knows the orientation; the bytes are counted here, since
nibabel inflates whatever comes.
"""

import gzip
import io
import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt

from polyclinic.data.flaw import Flaw, guarded
from polyclinic.data.grid import MAX_VOXELS, Floats, Volume, canonical, flaw
from polyclinic.data.voxel_values import require_values

SUFFIXES = frozenset({".nii", ".nii.gz"})
GZIP = b"\x1f\x8b"
HEADER_BYTES = 540  # of version 2; version 1 has 348
# Of the header's extensions, and of what may follow the voxels.
MAX_EXTRA = 64 << 20
MAX_TRAILING = 1 << 20
# DEFLATE cannot make more of a byte than this.
MAX_RATIO = 1032
CHUNK = 4 << 20
# Edge of a voxel in millimetres by the code of the header's unit; unstated means millimetres.
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def read_nifti(path: Path, *, mask: bool = False) -> Volume:
    """The volume of a file, in RAS order.

    Args:
        mask: labels rather than intensities, so that one value everywhere is nothing unusual.

    Guarantees:
        - Whatever is in the file, only DataRejected is raised.
        - No more bytes are inflated than the header may promise and ``MAX_TRAILING``.
        - A volume and its mirrored twin come out equal, voxel by voxel.

    Raises:
        DataRejected: with a reason code and the hash of the file; never its name or content.
    """
    with np.errstate(all="ignore"):  # damaged numbers are looked at, not warned of
        return guarded(path, "a NIfTI file of one volume", lambda: _read(path, mask))


def _read(path: Path, mask: bool) -> Volume:
    """The volume, or the first flaw."""
    size = _size(path)
    with _inflated(path) as (stream, packed):
        read, header = _header(stream)
        shape, dtype = _promise(header)
        offset = int(header["vox_offset"]) or int(header.single_vox_offset)
        count = math.prod(shape) * dtype.itemsize
        if offset < int(header.single_vox_offset):
            raise Flaw("bad_header", "voxels inside the header")
        _require_possible(offset, count, size, packed)
        _skip(stream, offset - read)
        raw = _exactly(stream, count)
        if packed:
            _require_end(stream)
    affine, doubtful = _affine(header, shape)
    stored = np.frombuffer(raw, dtype=dtype).reshape(shape, order="F")
    voxels, affine = canonical(_scaled(stored, header), affine)
    require_values(voxels, one_value=mask)
    return Volume(voxels, affine, doubtful)


def stored_grid(path: Path) -> tuple[Floats, tuple[int, int, int]]:
    """Affine and shape of a file's voxels in the order in which they are stored; voxels unread.

    Raises:
        DataRejected: as of ``read_nifti``.
    """

    def work() -> tuple[Floats, tuple[int, int, int]]:
        _size(path)
        with _inflated(path) as (stream, _):
            _, header = _header(stream)
        shape, _ = _promise(header)
        return _affine(header, shape)[0], shape

    with np.errstate(all="ignore"):
        return guarded(path, "a NIfTI file of one volume", work)


def _size(path: Path) -> int:
    """Bytes of a regular file; a pipe or device would never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Flaw("unreadable", "no regular file")
    if not status.st_size:
        raise Flaw("empty_file", "0 bytes")
    return status.st_size


@contextmanager
def _inflated(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The bytes of a file as they are without gzip, and whether it is packed, by its first bytes:
    names lie."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if not packed:
            yield file, False
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as stream:
            yield cast(BinaryIO, stream), True


def _header(stream: BinaryIO) -> tuple[int, Any]:
    """How many bytes were read and the header in them."""
    start = stream.read(HEADER_BYTES)
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        size = int(kind.sizeof_hdr)
        if len(start) < size or not kind.may_contain_header(start[:size]):
            continue
        # Not checked by nibabel: its checks write to the log what they find.
        header = kind.from_fileobj(io.BytesIO(start[:size]), check=False)
        if bytes(header["magic"].item())[:2] != b"n+":
            raise Flaw("unreadable", "a header without its voxels")
        return len(start), header
    raise Flaw("unreadable", "no NIfTI header")


def _promise(header: Any) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Shape and type that the header claims, within what is allowed."""
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise Flaw("wrong_dimensions", "another number of dimensions")
    claimed = [int(n) for n in header["dim"][1 : dimensions + 1]]
    if any(n < 0 for n in claimed):
        raise Flaw("unreadable", "a negative length")
    if any(n == 0 for n in claimed):
        raise Flaw("empty_file", "0 voxels")
    while len(claimed) > 3 and claimed[-1] == 1:
        claimed.pop()
    if len(claimed) != 3 or min(claimed) < 2:
        raise Flaw("wrong_dimensions", f"{sum(n > 1 for n in claimed)} dimensions")
    dtype: np.dtype[Any] = header.get_data_dtype()
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise Flaw("wrong_dtype", f"kind '{dtype.kind}'")
    if math.prod(claimed) * max(4, dtype.itemsize) > 4 * MAX_VOXELS:
        raise Flaw("too_large", f"more than {4 * MAX_VOXELS >> 20} MiB of voxels")
    return (claimed[0], claimed[1], claimed[2]), dtype


def _require_possible(offset: int, count: int, size: int, packed: bool) -> None:
    """Refuse a promise that the file's bytes cannot keep, before memory is taken for it."""
    if offset > MAX_EXTRA:
        raise Flaw("too_large", "a header of many megabytes")
    if offset + count > size * (MAX_RATIO if packed else 1):
        raise Flaw("unreadable", "fewer bytes than the header claims")


def _skip(stream: BinaryIO, count: int) -> None:
    """Go on to the voxels; back, in a version 1 file whose header is shorter than what was read."""
    if count < 0:
        stream.seek(count, io.SEEK_CUR)
    while count > 0:
        step = len(stream.read(min(count, CHUNK)))
        if not step:
            raise Flaw("unreadable", "cut short")
        count -= step


def _exactly(stream: BinaryIO, count: int) -> bytearray:
    """The next ``count`` bytes; memory grows with what comes, not with what is claimed."""
    raw = bytearray()
    while len(raw) < count:
        chunk = stream.read(min(count - len(raw), CHUNK))
        if not chunk:
            raise Flaw("unreadable", "cut short")
        raw += chunk
    return raw


def _require_end(stream: BinaryIO) -> None:
    """Read on to the end, where gzip's checksum is; a bomb has its charge behind the voxels."""
    if len(stream.read(MAX_TRAILING + 1)) > MAX_TRAILING:
        raise Flaw("too_large", "megabytes behind the voxels")


def _affine(header: Any, shape: tuple[int, ...]) -> tuple[Floats, bool]:
    """The affine in millimetres, and whether the header tells a second one that differs."""
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        raise Flaw("bad_affine", "no orientation")
    unit = MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if unit is None:
        raise Flaw("bad_affine", "another unit of length")
    found = np.asarray(header.get_best_affine(), dtype=np.float64)
    found[:3] *= unit
    why = flaw(found, shape)
    if why:
        raise Flaw("bad_affine", why)
    return found, bool(sform and qform) and _differ(header, found, unit, shape)


def _differ(header: Any, chosen: Floats, unit: float, shape: tuple[int, ...]) -> bool:
    """Whether the qform puts a corner more than a voxel from where the sform does."""
    other = np.asarray(header.get_qform(), dtype=np.float64)
    other[:3] *= unit
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in shape), 1]], dtype=np.float64)
    apart = np.linalg.norm((corners @ (other - chosen).T)[:, :3], axis=1)
    return not bool((apart <= np.linalg.norm(chosen[:3, :3], axis=0).max()).all())


def _scaled(stored: npt.NDArray[Any], header: Any) -> npt.NDArray[Any]:
    """Numbers as slope * stored + intercept, where the header has them."""
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return stored
    scaled = stored.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(intercept or 0.0)
    return scaled
