"""A pipe in the place of a file is refused; opening it would wait for ever."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from polyclinic.data.datalist import read_object
from polyclinic.data.parquet import read_parquet
from polyclinic.data.parquet_stream import parquet_stream
from polyclinic.data.quarantine import file_hash
from polyclinic.data.slide import read_slide
from polyclinic.data.slide_image import SlideImage
from polyclinic.data.table import read_bytes
from polyclinic.data.text_stream import text_stream
from polyclinic.errors import DataError

KEY = "patient_id"
READERS: dict[str, Callable[[Path], object]] = {
    "manifest.csv": read_bytes,
    "hours.csv": lambda path: text_stream(path, (KEY,)),
    "labs.parquet": lambda path: read_parquet(path, KEY, ["x"]),
    "hours.parquet": lambda path: parquet_stream(path, (KEY,)),
    "slide.h5": lambda path: read_slide(path, "clam", 3, ""),
    "listed.json": read_object,
    "slide.svs": SlideImage,
}


def _ended(work: Callable[[], object]) -> list[Exception]:
    """What a piece of work raised, once it has ended."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    return raised


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_at_once_and_not_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    (error,) = _ended(lambda: READERS[name](path))
    assert isinstance(error, DataError)
    assert not any(part in str(error) for part in (name, str(tmp_path)))


def test_a_pipe_has_no_hash(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    os.mkfifo(path)
    assert _ended(lambda: file_hash(path)) == []
    assert file_hash(path) == ""
