"""NIfTI files lose their text and keep geometry and voxels."""

import gzip
import io
import struct

import nibabel as nib
import numpy as np
import pytest

from polyclinic.data.flaw import Flaw
from polyclinic.importing.nifti_file import clean_nifti

VOXELS = np.arange(2 * 3 * 4).reshape(2, 3, 4)
AFFINE = np.array([[0, -2, 0, 5], [3, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1.0]])


def volume(version: int = 1, order: str = "<") -> bytes:
    """A volume with a word in every field that takes one."""
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(order))
    image = kind(VOXELS.astype("i2"), AFFINE, header)
    for field in ("descrip", "aux_file", "intent_name"):
        image.header[field] = "KANARI"
    if version == 1:
        image.header["db_name"], image.header["data_type"] = "KANARI", "KANARI"
    image.header.extensions.append(nib.nifti1.Nifti1Extension(4, b"KANARI"))
    return bytes(image.to_bytes()) + b"KANARI"


def cleaned(data: bytes, compressed: bool = False) -> bytes:
    """The clean file."""
    target = io.BytesIO()
    clean_nifti(io.BytesIO(data), target, compressed=compressed)
    return target.getvalue()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", "<>")
def test_b09_text_goes_and_geometry_and_voxels_stay(version: int, order: str) -> None:
    raw = volume(version, order)
    assert raw.count(b"KANARI") >= 5
    clean = cleaned(raw)
    assert b"KANARI" not in clean
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    image = kind.from_bytes(clean)
    assert (np.asarray(image.dataobj) == VOXELS).all()
    assert (image.affine == AFFINE).all()
    assert len(image.header.extensions) == 0
    assert cleaned(clean) == clean


def test_b09_a_compressed_file_loses_the_name_in_its_own_header() -> None:
    packed = io.BytesIO()
    with gzip.GzipFile("KANARI.nii", "wb", fileobj=packed) as stream:
        stream.write(volume())
    assert b"KANARI" in packed.getvalue()
    clean = cleaned(packed.getvalue(), compressed=True)
    assert b"KANARI" not in clean
    assert gzip.decompress(clean) == cleaned(volume())
    assert clean[4:8] == b"\0\0\0\0"  # no time


def test_a_file_cut_anywhere_is_refused() -> None:
    raw = volume()
    whole = len(cleaned(raw))
    for size in (0, 10, 347, 349, 400, whole - 1):
        with pytest.raises(Flaw):
            cleaned(raw[:size])
    packed = gzip.compress(raw)
    with pytest.raises(Flaw):
        cleaned(packed[: len(packed) // 2], compressed=True)
    with pytest.raises(Flaw):
        cleaned(b"no gzip at all", compressed=True)


@pytest.mark.parametrize(
    ("at", "form", "value", "reason"),
    [
        (40, "<h", 9, "bad_header"),
        (42, "<h", -1, "bad_header"),
        (42, "<hhh", (32000, 32000, 32000), "too_large"),
        (108, "<f", 1e12, "bad_header"),
        (108, "<f", float("nan"), "bad_header"),
        (108, "<f", 0.0, "bad_header"),
        (72, "<h", 0, "bad_header"),
        (344, "4s", b"ni1\0", "unreadable"),
    ],
)
def test_a_header_that_cannot_be_is_refused(at: int, form: str, value: object, reason: str) -> None:
    raw = bytearray(volume())
    struct.pack_into(form, raw, at, *(value if isinstance(value, tuple) else (value,)))
    with pytest.raises(Flaw) as caught:
        cleaned(bytes(raw))
    assert caught.value.reason == reason
