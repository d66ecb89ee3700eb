"""A certificate or key that FLARE would say nothing about is found."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from spoiled import Kits, failures

from polyclinic.flare.doctor import examine


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (300, "ok", "in order"),
        (331, "warn", "expires in 28 days"),
        (355, "warn", "within a week"),
        (361, "fail", "expired 1 day(s) ago"),
        (-1, "fail", "not valid yet"),
    ],
)
def test_expiry_is_told_before_it_happens(kit: Kits, days: int, status: str, words: str) -> None:
    # A minute's grace: the certificate was made some seconds ago.
    then = datetime.now(UTC) + timedelta(days=days, minutes=1)
    told = [f for f in examine(kit("site-1"), then).findings if f.check == "in-date"]
    assert told[0].status == status
    assert words in told[0].sentence()


def test_another_sites_certificate_is_found(kit: Kits) -> None:
    broken, other = kit("site-1"), kit("site-2")
    for name in ("client.crt", "client.key"):
        shutil.copy(other / "startup" / name, broken / "startup" / name)
    assert set(failures(broken)) == {"named-as-the-kit"}


def test_another_sites_key_is_found(kit: Kits) -> None:
    broken, other = kit("site-1"), kit("site-2")
    shutil.copy(other / "startup" / "client.key", broken / "startup" / "client.key")
    assert set(failures(broken)) == {"key-belongs"}


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_missing_or_broken_key_is_found(kit: Kits, content: str | None) -> None:
    broken = kit("site-1")
    key = broken / "startup" / "client.key"
    key.unlink() if content is None else key.write_text(content)
    assert set(failures(broken)) == {"key-belongs"}


def test_a_certificate_of_another_consortium_is_found(
    kit: Kits, tmp_path: Path, description: Any
) -> None:
    from kits import make_kits

    stranger = make_kits(description, tmp_path / "other") / "site-1" / "startup"
    broken = kit("site-1")
    for name in ("client.crt", "client.key"):
        shutil.copy(stranger / name, broken / "startup" / name)
    assert set(failures(broken)) == {"issued-by-the-consortium"}
