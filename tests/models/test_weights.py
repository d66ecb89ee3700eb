"""Weights from a file."""

import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from polyclinic.errors import SiteError
from polyclinic.models import weights as module
from polyclinic.models.weights import load_weights

TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3)}


def saved(folder: Path, content: object, name: str = "w.pth", **options: object) -> Path:
    path = folder / name
    torch.save(content, path, **options)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(path: Path, sha256: str = "") -> str:
    with pytest.raises(SiteError) as caught:
        load_weights(path, sha256)
    assert str(path.parent) not in str(caught.value)
    return caught.value.got


@pytest.mark.parametrize("layout", ["plain", "nested", "parallel", "old", "safetensors"])
def test_tensors_come_back_from_each_format(tmp_path: Path, layout: str) -> None:
    if layout == "safetensors":
        path = tmp_path / "w.safetensors"
        path.write_bytes(save(TENSORS))
    elif layout == "nested":
        path = saved(tmp_path, {"epoch": 3, "state_dict": TENSORS})
    elif layout == "parallel":
        path = saved(tmp_path, {f"module.{k}": v for k, v in TENSORS.items()})
    else:
        old = {"_use_new_zipfile_serialization": False} if layout == "old" else {}
        path = saved(tmp_path, TENSORS, **old)

    found = load_weights(path, digest(path).upper())

    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[n], v) for n, v in TENSORS.items())


class Program:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("old", [False, True])
def test_a14_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, old: bool) -> None:
    mark = tmp_path / "ran"
    content = TENSORS | {"payload": Program(mark)}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=not old)
    assert "something else" in refusal(path)
    assert not mark.exists()

    torch.load(path, weights_only=False)  # it would have run
    assert mark.exists()


def test_a14_a_plain_pickle_is_refused_whatever_its_suffix(tmp_path: Path) -> None:
    for name in ("w.pkl", "w.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps({"payload": Program(tmp_path / "ran")}))
        refusal(path)
    assert not (tmp_path / "ran").exists()


def test_a14_a_file_of_another_hash_is_not_even_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, TENSORS)
    monkeypatch.setattr(module.torch, "load", None)
    assert refusal(path, "0" * 64) == "another file"


@pytest.mark.parametrize("sha256", ["abc", "g" * 64, "../" + "0" * 61])
def test_a_hash_that_is_none_is_told(tmp_path: Path, sha256: str) -> None:
    assert "characters" in refusal(saved(tmp_path, TENSORS), sha256)


def test_a_missing_file_is_told_without_its_path(tmp_path: Path) -> None:
    assert refusal(tmp_path / "surname.pth") == "FileNotFoundError"


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path, TENSORS)
    path.write_bytes(path.read_bytes()[:keep])
    refusal(path)


def test_a_file_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, TENSORS)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    assert refusal(path) == "more"


def test_b07_a_record_that_inflates_is_refused_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = saved(tmp_path, {"w": torch.zeros(1 << 20)}, "plain.pth")
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(plain) as a, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as b:
        for member in a.infolist():
            b.writestr(member.filename, a.read(member))
    assert packed.stat().st_size < 1 << 16
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(module.torch, "load", None)
    assert refusal(packed) == "more"


def test_a_shape_beyond_its_storage_is_refused_before_it_is_filled(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.zeros(1).expand(1 << 40)})
    assert path.stat().st_size < 1 << 16
    assert refusal(path) == "more"


@pytest.mark.parametrize(
    "content", [[1], {}, {"a": 1}, {"a": {"b": torch.zeros(1)}}, torch.zeros(2)]
)
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path: Path, content: object) -> None:
    refusal(saved(tmp_path, content))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    assert refusal(saved(tmp_path, {"w": torch.tensor([1.0, bad])})) == "NaN or infinity"
    stream = io.BytesIO(save({"w": torch.tensor([bad])}))
    path = tmp_path / "w.safetensors"
    path.write_bytes(stream.getvalue())
    assert refusal(path) == "NaN or infinity"
