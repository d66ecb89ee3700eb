"""Where a site's facts are found, and when a job is too small for it."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from flare.kit import Kit
from polyclinic.errors import SiteError, StudyError
from polyclinic.flare.executor import SiteExecutor
from polyclinic.flare.site import (
    client_spec,
    find_site,
    participants,
    require_company,
    settings_path,
)


def test_a_site_is_its_settings_and_the_jobs_study(tmp_path: Path) -> None:
    site = find_site(Kit(tmp_path).context())
    assert (site.settings.site, site.study.name) == ("site-1", "demo")
    assert site.held == ("cnv",)


def test_what_the_study_does_not_name_is_not_held(tmp_path: Path) -> None:
    source = {"kind": "vector", "table": "x.csv"}
    modalities = {"cnv": source, "labs": source, "rna": source | {"evaluation_only": True}}
    kit = Kit(tmp_path, {"cohorts": {"demo": {"modalities": modalities}}})
    assert find_site(kit.context()).held == ("cnv",)


def test_in_a_simulation_every_site_has_its_own_file(tmp_path: Path) -> None:
    kit = Kit(tmp_path)
    sites = kit.root / "local" / "sites"
    sites.mkdir()
    (kit.root / "local" / "polyclinic.yaml").rename(sites / "site-1.yaml")
    assert settings_path(kit.root / "local", "site-1") == sites / "site-1.yaml"
    assert find_site(kit.context()).settings.site == "site-1"


def test_a_job_without_a_study_is_refused(tmp_path: Path) -> None:
    kit = Kit(tmp_path)
    next(kit.root.rglob("study.json")).unlink()
    with pytest.raises(StudyError):
        find_site(kit.context())


def test_company_is_counted_from_the_jobs_own_list(tmp_path: Path) -> None:
    assert participants(Kit(tmp_path, sites=3).context()) == 3


def test_a_site_trains_from_its_minimum_on(tmp_path: Path) -> None:
    settings = find_site(Kit(tmp_path, {"minimum_sites": 3}).context()).settings
    require_company(settings, 3)
    with pytest.raises(SiteError, match="at least 3 sites"):
        require_company(settings, 2)


SPEC = {"path": "polyclinic.algorithms.fedmm.Client", "args": {"beta": 0.5}}


def test_a_client_half_that_flare_left_alone_is_taken_as_the_job_wrote_it() -> None:
    assert client_spec(SPEC | {"config_type": "dict"}) == SPEC


def test_a_client_half_that_flare_built_gives_back_its_path_and_arguments() -> None:
    @dataclass(frozen=True)
    class Client:
        beta: float

    Client.__module__, Client.__qualname__ = "polyclinic.algorithms.fedmm", "Client"
    assert client_spec(Client(0.5)) == SPEC


@pytest.mark.parametrize(
    "client",
    [
        None,
        {},
        {"path": "subprocess.Popen", "args": {"args": ["id"]}},
        {"path": "polyclinic.flare.site.load_settings", "args": {}},
        {"path": "polyclinic.algorithms.fedmm.Client", "args": ["id"]},
        Path("/"),
    ],
)
def test_an_executor_for_anything_else_is_not_built(client: object) -> None:
    with pytest.raises(StudyError, match="client half"):
        SiteExecutor(client=client)


def test_flares_process_at_a_site_stays_without_torch() -> None:
    code = "import sys, polyclinic.flare.executor, polyclinic.flare.egress, polyclinic.flare.ban"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
