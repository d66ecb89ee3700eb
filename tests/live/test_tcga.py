"""FedMM on real breast cancers in the paper's three hospitals, provisioned, over mutual TLS."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from federation import REPO, Federation
from runs import assert_equals_one_process, copy_job, ledger

PLAN = REPO / "poc" / "plans" / "tcga_brca_paper3.json"
JOB = REPO / "jobs" / "fedmm_tcga_brca"


@pytest.fixture(scope="module")
def hospitals(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the site folders of the plan, as a researcher makes them."""
    out = tmp_path_factory.mktemp("paper3")
    command = [sys.executable, str(REPO / "poc" / "cohorts.py"), "tcga_brca", "--plan", "paper3"]
    command += ["--source", str(shared_data / "tcga_brca"), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return out


def consortium_of(plan: Path) -> list[dict[str, object]]:
    """The plan's hospitals, as provisioning/consortium.yaml has them."""
    sites = json.loads(plan.read_text())["sites"]
    # The three organisations that the description's admins belong to.
    pairs = zip(sites.items(), ("north", "west", "south"), strict=True)
    return [
        {
            "name": site,
            "organisation": organisation,
            "cohorts": {"tcga_brca": dict.fromkeys(held["modalities"], "vector")},
        }
        for (site, held), organisation in pairs
    ]


@pytest.mark.data
def test_the_paper3_job_completes_over_mutual_tls_and_equals_the_one_process_run(
    fresh_federation: Callable[..., Federation], hospitals: Path, tmp_path: Path
) -> None:
    federation = fresh_federation(hospitals=consortium_of(PLAN))
    federation.install_data(hospitals)
    federation.bring_up()
    assert federation.connected() == ["h1", "h2", "h3"]
    job = copy_job(JOB, tmp_path, rounds=3)
    run = federation.submit(job)
    assert federation.wait(run, 240) == "FINISHED:COMPLETED"

    lines = ledger(federation, run)
    census = next(line for line in lines if line["kind"] == "census")["sites"]
    held = {site: said["modalities"] for site, said in census.items()}
    assert held == {"h1": ["he"], "h2": ["cnv", "he"], "h3": ["cnv"]}
    rounds = [line for line in lines if line["kind"] == "round"]
    assert [r["round"] for r in rounds] == [1, 2, 3]
    assert all(r["heard"] == ["h1", "h2", "h3"] and r["status"] == "folded" for r in rounds)
    assert (lines[-1]["kind"], lines[-1]["status"]) == ("end", "completed")
    assert_equals_one_process(federation, run, job)
