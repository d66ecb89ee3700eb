"""Pseudonyms are stable, keyed, and made with a key that nobody else can read."""

import hashlib
import hmac
import os
import stat
from base64 import b32encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.errors import SiteError
from polyclinic.importing.pseudonym import KEY_NAME, fingerprint, load_key, pseudonym, uid

KEY = bytes(range(32))


def test_a_pseudonym_is_the_keyed_hash_of_the_id() -> None:
    digest = hmac.new(KEY, b"patient\x004711", hashlib.sha256).digest()
    assert pseudonym(KEY, "4711") == "p" + b32encode(digest).decode().lower()[:25]


@given(st.text(min_size=1, max_size=40))
def test_any_id_gets_a_plain_name(text: str) -> None:
    name = pseudonym(KEY, text)
    assert name == "" or (len(name) == 26 and name.isascii() and name.isalnum())


@pytest.mark.parametrize(
    "same",
    ["M\u00fcller 7", "  Mu\u0308ller   7 ", "M\u00fcller\u200b 7", "M\u00fcller\u00a0\uff17"],
)
def test_spellings_that_read_the_same_get_one_pseudonym(same: str) -> None:
    assert pseudonym(KEY, same) == pseudonym(KEY, "M\u00fcller 7")


def test_another_key_gives_other_pseudonyms_and_uids() -> None:
    other = bytes(32)
    assert pseudonym(KEY, "4711") != pseudonym(other, "4711")
    assert uid(KEY, "1.2.3") != uid(other, "1.2.3")
    assert fingerprint(KEY) != fingerprint(other)


def test_a_blank_id_has_no_pseudonym() -> None:
    assert pseudonym(KEY, " \u200b ") == ""


def test_a_uid_is_the_same_each_time_and_valid() -> None:
    made = uid(KEY, "1.2.840.1")
    assert made == uid(KEY, "1.2.840.1\0") != uid(KEY, "1.2.840.2")
    number = int(made.removeprefix("2.25."))
    assert number < 1 << 128
    assert number >> 76 & 0xF == 4  # the version of a random UUID
    assert len(made) <= 64


def test_the_key_is_drawn_once_for_its_owner_only(tmp_path: Path) -> None:
    storage = tmp_path / "state"
    key = load_key(storage)
    assert len(key) == 32
    assert load_key(storage) == key == load_key(storage, create=False)
    assert stat.S_IMODE((storage / KEY_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(storage.stat().st_mode) == 0o700
    assert load_key(tmp_path / "other") != key


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    load_key(tmp_path)
    (tmp_path / KEY_NAME).chmod(mode)
    with pytest.raises(SiteError, match="only its owner can read"):
        load_key(tmp_path)


def test_a_key_cut_short_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path)
    (tmp_path / KEY_NAME).write_bytes(b"short")
    with pytest.raises(SiteError, match="32 bytes"):
        load_key(tmp_path)


def test_a_link_in_place_of_the_key_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path / "a")
    (tmp_path / "b").mkdir()
    os.symlink(tmp_path / "a" / KEY_NAME, tmp_path / "b" / KEY_NAME)
    with pytest.raises(SiteError):
        load_key(tmp_path / "b")


def test_a_key_that_is_gone_is_not_drawn_anew_for_an_old_folder(tmp_path: Path) -> None:
    with pytest.raises(SiteError):
        load_key(tmp_path, create=False)
    assert not (tmp_path / KEY_NAME).exists()
