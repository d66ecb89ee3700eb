"""Files, modes, storage, scripts and settings of this machine."""

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from spoiled import Kits, failures, settings

from consortium import Consortium
from polyclinic.flare.doctor import examine


def test_a_shared_storage_is_refused_and_a_private_temporary_one_is_warned_of(
    kit: Kits, tmp_path: Path
) -> None:
    broken = kit("coordinator")
    settings(broken, storage="/tmp/polyclinic-that-is-not-there")
    assert "others can enter" in failures(broken)["storage-inside"]


def test_an_open_folder_is_found(kit: Kits) -> None:
    broken = kit("site-1")
    (broken / "local").chmod(0o777)
    assert "can be written by others" in failures(broken)["closed-modes"]


def test_the_root_key_beside_a_kit_must_be_shut_away(made: Path) -> None:
    state = made.parent / "state" / "cert.json"
    state.chmod(0o644)
    try:
        assert "cert.json can be read by others" in failures(made / "coordinator")["closed-modes"]
    finally:
        state.chmod(0o600)


def test_a_start_script_without_gate_or_secure_logging_is_found(kit: Kits) -> None:
    broken = kit("site-1")
    script = broken / "startup" / "sub_start.sh"
    lines = [line for line in script.read_text().splitlines() if "SECURE_LOGGING" not in line]
    script.write_text("\n".join(lines))
    assert "secure logging" in failures(broken)["start-script"]


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"site": "site-2"}, "settings"),
        ({"minimum_cell": 0}, "settings"),
        ({"cohorts": {}}, "cohorts"),
        ({"minimum_sites": 1}, "quorum"),
    ],
)
def test_wrong_settings_of_a_hospital_are_found(
    kit: Kits, changes: dict[str, Any], check: str
) -> None:
    broken = kit("site-1")
    settings(broken, **changes)
    assert check in failures(broken)


def test_data_that_are_not_there_are_the_data_managers_to_mend(kit: Kits, tmp_path: Path) -> None:
    broken = kit("site-1")
    (tmp_path / "cohort" / "manifest.csv").unlink()
    assert "manifest of cohort 'demo' is not there" in failures(broken)["cohorts"]
    shutil.rmtree(tmp_path / "cohort")
    assert failures(broken)["cohorts"].endswith("(data manager).")


def test_every_table_and_folder_of_a_cohort_must_be_there_and_is_named_without_its_path(
    kit: Kits, tmp_path: Path
) -> None:
    broken, cohort = kit("site-2"), tmp_path / "cohort"
    (cohort / "wsi").rmdir()
    (cohort / "cnv.parquet").unlink()
    (cohort / "metadata.parquet").unlink()
    (cohort / "metadata.parquet").mkdir()
    told = [f.sentence() for f in examine(broken).findings if f.check == "cohorts"]
    assert sorted(t.partition(" of modality")[0] for t in told) == [
        "folder 'wsi'",
        "table 'cnv.parquet'",
        "table 'metadata.parquet'",
    ]
    assert any(
        "table 'cnv.parquet' of modality 'cnv' of cohort 'demo' is not there" in t for t in told
    )
    assert not any(str(tmp_path) in t for t in told)


def test_a_port_that_another_process_holds_is_found(kit: Kits, description: Consortium) -> None:
    server = kit("coordinator")
    assert failures(server) == {}
    with socket.socket() as other:
        other.bind(("127.0.0.1", description.server.port))
        other.listen()
        assert failures(server) == {
            "server-port": f"expected port {description.server.port} to be free, got another"
            " process on it; stop it, or have the port changed in the consortium's description"
            " (site IT)."
        }


def test_the_kits_own_server_may_hold_the_port(
    kit: Kits, description: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, another = kit("coordinator"), kit("site-1")
    module = "nvflare.private.fed.app.server.server_train"
    with socket.socket() as own:
        own.bind(("", description.server.port))
        own.listen()
        for folder, found in ((server, set()), (another, {"server-port"})):
            words = ["python3", "-u", "-m", module, "-m", str(folder), "-s", "fed_server.json"]
            there = [
                SimpleNamespace(info={"cmdline": None}),
                SimpleNamespace(info={"cmdline": words}),
            ]
            monkeypatch.setattr(psutil, "process_iter", lambda attrs, there=there: there)
            assert set(failures(server)) == found


def test_a_device_that_this_machine_lacks_is_found(kit: Kits) -> None:
    broken = kit("site-1")
    settings(broken, device="cuda:99")
    assert "set 'device: cpu'" in failures(broken)["device"]
