"""The FLARE run of a job equals the federation in one process: tensors, heads and scores."""

from pathlib import Path

import pytest
from federation import REPO, Federation
from runs import assert_equals_one_process, copy_job


@pytest.mark.parametrize("name", ["fedmm_demo"])
def test_a_provisioned_run_equals_the_one_process_run_within_1e_5(
    federation: Federation, tmp_path: Path, name: str
) -> None:
    job = copy_job(REPO / "jobs" / name, tmp_path, rounds=3)
    run = federation.submit(job)
    assert federation.wait(run, 180) == "FINISHED:COMPLETED"
    assert_equals_one_process(federation, run, job)
