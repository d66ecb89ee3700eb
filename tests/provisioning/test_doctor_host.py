"""Files, modes, storage, scripts and settings of this machine."""

from pathlib import Path
from typing import Any

import pytest
from spoiled import Kits, failures, settings


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
        ({"minimum_sites": 2}, "quorum"),
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
    assert "manifest of cohort 'demo'" in failures(broken)["cohorts"]
    (tmp_path / "cohort").rmdir()
    assert failures(broken)["cohorts"].endswith("(data manager).")


def test_a_device_that_this_machine_lacks_is_found(kit: Kits) -> None:
    broken = kit("site-1")
    settings(broken, device="cuda:99")
    assert "set 'device: cpu'" in failures(broken)["device"]
