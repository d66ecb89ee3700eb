"""When a cached array counts as that of another file."""

import os
from pathlib import Path

import numpy as np
import pytest

from polyclinic.data.cache import REFUSAL_SECONDS, ArrayCache
from polyclinic.errors import DataRejected


def test_a_film_replaced_by_one_of_the_same_size_and_time_is_decoded_anew(tmp_path: Path) -> None:
    # Exports set the time of change to that of the study; a corrected film then looks the same.
    path, cache = tmp_path / "film.dcm", ArrayCache(tmp_path / "cache", {})

    def decoded() -> np.ndarray:
        return np.frombuffer(path.read_bytes(), np.uint8)

    for content in (b"first", b"other"):
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        assert cache.get(path, decoded).tobytes() == content


def test_a_refusal_of_tomorrow_is_looked_at_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "film.dcm", ArrayCache(tmp_path / "cache", {})
    path.write_bytes(b"film")

    def refuses() -> np.ndarray:
        raise DataRejected("unreadable", file_hash="0" * 12, expected="x", got="y", remedy="z")

    with pytest.raises(DataRejected):
        cache.get(path, refuses)
    (refusal,) = (tmp_path / "cache").glob("*/*.json")
    ahead = refusal.stat().st_mtime + 2 * REFUSAL_SECONDS  # the clock was set right meanwhile
    os.utime(refusal, (ahead, ahead))
    assert cache.get(path, lambda: np.ones(1)).tolist() == [1.0]
