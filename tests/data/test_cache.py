"""Decoded arrays on disk."""

import multiprocessing
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polyclinic.data import cache as module
from polyclinic.data.cache import ArrayCache, content_of
from polyclinic.errors import DataRejected, SiteError

RECIPE = {"kind": "image", "size": [2, 3]}


class Maker:
    """Makes an array and counts how often."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.calls = array, 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return self.array


def a_file(folder: Path, content: bytes = b"film") -> Path:
    path = folder / "surname_firstname.dcm"
    path.write_bytes(content)
    return path


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "key")


def array(first: float = 0.0) -> np.ndarray:
    return np.arange(6, dtype=np.float32).reshape(2, 3) + first


def test_a_file_is_decoded_once_and_then_mapped(tmp_path: Path) -> None:
    path, make = a_file(tmp_path), Maker(array())
    first = ArrayCache(tmp_path / "cache", RECIPE).get(path, make)
    again = ArrayCache(tmp_path / "cache", RECIPE).get(path, make)

    assert make.calls == 1
    np.testing.assert_array_equal(first, array())
    np.testing.assert_array_equal(again, array())
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable


@pytest.mark.parametrize("change", ["content", "time", "place", "recipe"])
def test_another_file_time_place_or_recipe_is_decoded_anew(tmp_path: Path, change: str) -> None:
    path, make, recipe = a_file(tmp_path), Maker(array()), dict(RECIPE)
    before = path.stat()
    ArrayCache(tmp_path / "cache", recipe).get(path, make)
    if change == "content":
        path.write_bytes(b"another film")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "place":
        path = path.rename(tmp_path / "other.dcm")
    else:
        recipe["size"] = [3, 2]
    ArrayCache(tmp_path / "cache", recipe).get(path, make)

    assert make.calls == 2


def test_b09_no_entry_names_a_file_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    ArrayCache(folder, RECIPE).get(a_file(tmp_path), Maker(array()))
    files = [p for p in folder.rglob("*") if p.is_file()]

    assert not any("surname" in str(p.relative_to(folder)) for p in files)
    assert not any(b"surname" in p.read_bytes() for p in files)
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
    folders = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    assert {stat.S_IMODE(p.stat().st_mode) for p in folders} == {0o700}


def test_b09_the_name_of_an_entry_cannot_be_made_without_the_key_of_its_folder(
    tmp_path: Path,
) -> None:
    path = a_file(tmp_path)
    for name in ("one", "two"):
        ArrayCache(tmp_path / name, RECIPE).get(path, Maker(array()))
    (one,), (two,) = entries(tmp_path / "one"), entries(tmp_path / "two")

    assert one.name != two.name
    assert len((tmp_path / "one" / "key").read_bytes()) == 32


@pytest.mark.parametrize("damage", [b"", b"\x00" * 152, None])
def test_a_torn_entry_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    path, make = a_file(tmp_path), Maker(array())
    cache = ArrayCache(tmp_path / "cache", RECIPE)
    cache.get(path, make)
    (entry,) = entries(tmp_path / "cache")
    entry.write_bytes(entry.read_bytes()[:-1] if damage is None else damage)

    # What a power cut tears is read by the next process.
    cache = ArrayCache(tmp_path / "cache", RECIPE)
    np.testing.assert_array_equal(cache.get(path, make), array())
    assert make.calls == 2
    np.testing.assert_array_equal(np.load(entry), array())


def test_an_entry_of_the_right_length_but_of_zeros_is_made_again(tmp_path: Path) -> None:
    """What file systems leave where the disk got the length of a file but not its content."""
    path, make = a_file(tmp_path), Maker(array(1.0))
    ArrayCache(tmp_path / "cache", RECIPE).get(path, make)
    (entry,) = entries(tmp_path / "cache")
    content = entry.read_bytes()
    for torn in (bytes(len(content)), content[:128] + bytes(len(content) - 128)):
        entry.write_bytes(torn)
        again = ArrayCache(tmp_path / "cache", RECIPE).get(path, make)
        np.testing.assert_array_equal(again, array(1.0))
        assert entry.read_bytes() == content
    assert make.calls == 3


def test_an_entry_cut_short_while_a_process_uses_it_is_made_again(tmp_path: Path) -> None:
    path, make = a_file(tmp_path), Maker(array())
    cache = ArrayCache(tmp_path / "cache", RECIPE)
    cache.get(path, make)
    (entry,) = entries(tmp_path / "cache")
    entry.write_bytes(entry.read_bytes()[:140])
    np.testing.assert_array_equal(cache.get(path, make), array())
    assert make.calls == 2


def test_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry can be made again at any time; only the key, once, cannot."""
    cache, calls = ArrayCache(tmp_path / "cache", RECIPE), []
    monkeypatch.setattr(os, "fsync", calls.append)
    cache.get(a_file(tmp_path), Maker(array()))
    assert calls == []


def test_the_folder_may_be_deleted_while_a_column_holds_entries(tmp_path: Path) -> None:
    path, make = a_file(tmp_path), Maker(array())
    held = ArrayCache(tmp_path / "cache", RECIPE).hold(path, make)
    mapped = held.read()
    shutil.rmtree(tmp_path / "cache")

    np.testing.assert_array_equal(mapped, array())  # what is open stays readable
    np.testing.assert_array_equal(held.read(), array())
    np.testing.assert_array_equal(held.read(), array())
    assert make.calls == 2


def test_a_held_entry_outlives_its_file(tmp_path: Path) -> None:
    path, make = a_file(tmp_path), Maker(array())
    held = ArrayCache(tmp_path / "cache", RECIPE).hold(path, make)
    held.read()
    path.unlink()

    np.testing.assert_array_equal(held.read(), array())
    assert make.calls == 1


def test_files_that_make_one_array_are_one_entry(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{i}.dcm" for i in range(3))
    for path in paths:
        path.write_bytes(b"slice")
    cache, make = ArrayCache(tmp_path / "cache", RECIPE), Maker(array())
    cache.get(paths, make)
    cache.get(paths, make)
    assert make.calls == 1
    os.utime(paths[1], ns=(0, 0))
    cache.get(paths, make)
    assert make.calls == 2


def _refusing(reason: str, file_hash: str, calls: list[int]) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        calls.append(1)
        raise DataRejected(reason, file_hash=file_hash, expected="e", got="g", remedy="r")

    return make


def test_a_refusal_is_remembered_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls = a_file(tmp_path), list[int]()
    cache = ArrayCache(tmp_path / "cache", RECIPE)
    for _ in range(2):
        with pytest.raises(DataRejected) as caught:
            cache.get(path, _refusing("burned_in", "a" * 12, calls))
        assert (caught.value.reason, caught.value.file_hash) == ("burned_in", "a" * 12)
    assert len(calls) == 1

    later = time.time() + module.REFUSAL_SECONDS + 1
    monkeypatch.setattr(module.time, "time", lambda: later)
    np.testing.assert_array_equal(cache.get(path, Maker(array())), array())


def test_a_file_that_could_not_even_be_read_is_tried_again(tmp_path: Path) -> None:
    path, calls = a_file(tmp_path), list[int]()
    cache = ArrayCache(tmp_path / "cache", RECIPE)
    for _ in range(2):
        with pytest.raises(DataRejected):
            cache.get(path, _refusing("unreadable", "", calls))
    assert len(calls) == 2
    absent = tmp_path / "absent.dcm"
    with pytest.raises(DataRejected):
        cache.get(absent, _refusing("missing_file", "", calls))
    assert entries(tmp_path / "cache") == []


def test_the_last_bytes_of_a_disk_stay_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ArrayCache(tmp_path / "cache", RECIPE)
    monkeypatch.setattr(module, "RESERVE", 1 << 60)
    with pytest.raises(SiteError, match="free space, delete the cache folder"):
        cache.get(a_file(tmp_path), Maker(array()))
    assert entries(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_made_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "surname").write_text("a file")
    with pytest.raises(SiteError) as caught:
        ArrayCache(tmp_path / "surname" / "cache", RECIPE)
    assert "surname" not in str(caught.value)


def test_a_damaged_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"short")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with pytest.raises(SiteError, match="damaged key"):
        ArrayCache(tmp_path, RECIPE)


def test_leftovers_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "cache", RECIPE)
    assert cache.folder is not None
    old, young = cache.folder / ".old.tmp", cache.folder / ".young.tmp"
    for path in (old, young):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    ArrayCache(tmp_path / "cache", RECIPE)
    assert not old.exists()
    assert young.exists()


def test_without_a_folder_every_read_decodes(tmp_path: Path) -> None:
    path, make = a_file(tmp_path), Maker(array())
    held = ArrayCache(None, RECIPE).hold(path, make)
    held.read()
    held.read()
    assert make.calls == 2


def _fill(folder: Path, paths: list[Path]) -> None:
    cache = ArrayCache(folder, RECIPE)
    for i, path in enumerate(paths):
        found = cache.get(path, Maker(array(i)))
        np.testing.assert_array_equal(found, array(i))


def test_two_processes_share_a_key_and_never_see_a_torn_entry(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for path in paths:
        path.write_bytes(b"x")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path / "cache", paths)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0]
    assert len(entries(tmp_path / "cache")) == 40


def test_the_fingerprint_tells_shapes_and_types_apart() -> None:
    zeros = np.zeros((2, 3), np.uint8)
    assert content_of(zeros) == content_of(zeros.copy())
    assert content_of(zeros) != content_of(zeros.T)
    assert content_of(zeros) != content_of(zeros.astype(np.int8))
