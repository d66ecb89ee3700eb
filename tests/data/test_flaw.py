"""One way out of a reader."""

from pathlib import Path

import pytest

from polyclinic.data.flaw import Flaw, guarded, read_bytes
from polyclinic.data.quarantine import file_hash
from polyclinic.errors import DataRejected, SiteError


def raising(error: BaseException) -> object:
    raise error


def test_what_the_work_returns_is_returned(tmp_path: Path) -> None:
    assert guarded(tmp_path, "a film", lambda: 7) == 7


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Flaw("multi_frame", "5 frames"), "multi_frame"),
        (FileNotFoundError("secret"), "missing_file"),
        (ValueError("secret"), "unreadable"),
        (RecursionError("secret"), "unreadable"),
        (MemoryError("secret"), "unreadable"),
        (PermissionError("secret"), "unreadable"),
    ],
)
def test_every_error_is_a_refusal_without_its_text_or_context(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    path = tmp_path / "film"
    path.write_bytes(b"x")
    with pytest.raises(DataRejected) as refused:
        guarded(path, "a film", lambda: raising(error))
    assert refused.value.reason == reason
    assert refused.value.file_hash == file_hash(path)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None


def test_the_site_s_own_errors_pass(tmp_path: Path) -> None:
    site = SiteError(expected="a", got="b", remedy="c")
    with pytest.raises(SiteError):
        guarded(tmp_path, "a film", lambda: raising(site))


def test_an_interrupt_passes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        guarded(tmp_path, "a film", lambda: raising(KeyboardInterrupt()))


def test_files_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(bytes(100))
    assert read_bytes(path, 100) == bytes(100)
    with pytest.raises(Flaw, match="too_large"):
        read_bytes(path, 99)
