"""Personal state survives what a hospital's machine does to it, and only its owner reads it."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from polyclinic.errors import CheckpointError, SiteError
from polyclinic.exchange import Tensors
from polyclinic.flare import personal
from polyclinic.flare.personal import PersonalStore


def head(value: float) -> Tensors:
    return {"personal.head": np.full(3, value, np.float32)}


def value(tensors: Tensors) -> float:
    return float(tensors["personal.head"][0])


def test_a_new_run_starts_with_nothing(tmp_path: Path) -> None:
    assert PersonalStore(tmp_path, "run").load(before=1) == {}


def test_another_object_finds_what_was_saved(tmp_path: Path) -> None:
    PersonalStore(tmp_path, "run").save(head(1), t=1)
    assert value(PersonalStore(tmp_path, "run").load(before=2)) == 1


def test_runs_do_not_see_each_other(tmp_path: Path) -> None:
    PersonalStore(tmp_path, "run").save(head(1), t=1)
    assert PersonalStore(tmp_path, "other").load(before=2) == {}


def test_a_site_that_was_away_continues_with_its_newest(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path, "run")
    store.save(head(1), t=1)
    assert value(store.load(before=9)) == 1


def test_only_two_rounds_are_kept(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path, "run")
    for t in range(1, 6):
        store.save(head(t), t)
    names = sorted(p.name for p in store.folder.iterdir())
    assert names == ["latest.json", "round_4.safetensors", "round_5.safetensors"]


def test_a_resumed_run_reads_the_round_it_repeats_from_and_forgets_later_ones(
    tmp_path: Path,
) -> None:
    store = PersonalStore(tmp_path, "run")
    store.save(head(4), t=4)
    store.save(head(5), t=5)
    assert value(store.load(before=5)) == 4
    store.save(head(50), t=5)
    assert value(store.load(before=6)) == 50
    store.save(head(4), t=4)
    assert json.loads((store.folder / "latest.json").read_text())["latest"] == 4
    assert not (store.folder / "round_5.safetensors").exists()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_round_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    store = PersonalStore(tmp_path, "run")
    store.save(head(1), t=1)
    store.save(head(2), t=2)
    path = store.folder / "round_2.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    assert value(store.load(before=3)) == 1


def test_when_every_round_is_damaged_the_site_is_told_instead_of_starting_anew(
    tmp_path: Path,
) -> None:
    store = PersonalStore(tmp_path, "run")
    store.save(head(1), t=1)
    (store.folder / "round_1.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="1 torn or altered"):
        store.load(before=2)
    (store.folder / "latest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"latest\.json"):
        store.load(before=2)


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path, "run")
    store.save(head(1), t=1)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(p.stat().st_mode) for p in store.folder.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("run", ["", "../x", "a/b", "a..b", ".hidden", "x" * 200, "a b"])
def test_a_run_id_cannot_lead_out_of_the_storage(tmp_path: Path, run: str) -> None:
    with pytest.raises(CheckpointError, match="run id"):
        PersonalStore(tmp_path, run)


OURS = {"study": "a" * 64, "client": "polyclinic.algorithms.fedmm.Client"}
OTHERS = ({}, OURS | {"study": "b" * 64}, OURS | {"client": "polyclinic.algorithms.fedavg.Client"})


@pytest.mark.parametrize("origin", OTHERS)
def test_a_run_of_another_study_or_algorithm_is_neither_read_nor_changed(
    tmp_path: Path, origin: dict[str, str]
) -> None:
    store = PersonalStore(tmp_path, "run", OURS)
    store.save(head(1), t=1)
    store.save(head(2), t=2)
    store.release()
    before = {p.name: p.read_bytes() for p in store.folder.iterdir()}
    other = PersonalStore(tmp_path, "run", origin)
    with pytest.raises(SiteError, match="another"):
        other.load(before=3)
    with pytest.raises(SiteError, match="another"):
        other.save(head(9), t=1)
    assert {p.name: p.read_bytes() for p in store.folder.iterdir()} == before
    assert value(PersonalStore(tmp_path, "run", OURS).load(before=3)) == 2


def test_one_job_at_a_time_writes_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal, "PATIENCE_SECONDS", 0.2)
    first, second = PersonalStore(tmp_path, "run"), PersonalStore(tmp_path, "run")
    first.save(head(1), t=1)
    with pytest.raises(SiteError, match="one job at a time"):
        second.save(head(2), t=1)
    PersonalStore(tmp_path, "other").save(head(3), t=1)
    assert value(second.load(before=2)) == 1  # evaluating needs no lock
    first.release()
    second.save(head(2), t=1)
    assert value(second.load(before=2)) == 2


def test_a_job_whose_process_is_gone_holds_no_lock(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path, "run")
    store.claim()
    del store
    PersonalStore(tmp_path, "run").claim()
