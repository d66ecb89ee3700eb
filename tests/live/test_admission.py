"""A01-A05, A13: who may submit what, on a running federation."""

from pathlib import Path

import pytest
from federation import Federation
from nvflare.fuel.flare_api.api_spec import AuthorizationError, InvalidJobDefinition
from smalljob import write_job


def test_the_lead_submits_and_the_job_completes(workshop: Federation, tmp_path: Path) -> None:
    job_id = workshop.submit(write_job(tmp_path / "right"))
    assert workshop.wait(job_id) == "FINISHED:COMPLETED"


@pytest.mark.parametrize("role", ["member", "org_admin"])
def test_a01_neither_member_nor_org_admin_submits(
    workshop: Federation, tmp_path: Path, role: str
) -> None:
    with pytest.raises(AuthorizationError, match="not authorized for 'submit_job'"):
        workshop.submit(write_job(tmp_path / "job"), role)


@pytest.mark.parametrize("quorum", [1, None])
def test_a03_a_job_for_fewer_sites_than_agreed_is_refused_at_admission(
    workshop: Federation, tmp_path: Path, quorum: int | None
) -> None:
    with pytest.raises(InvalidJobDefinition, match="no fewer than 2 sites"):
        workshop.submit(write_job(tmp_path / "job", min_clients=quorum))


def test_a04_a_class_outside_the_allow_list_is_not_built(
    workshop: Federation, tmp_path: Path
) -> None:
    trainer = "nvflare.app_common.np.np_trainer.NPTrainer"
    job_id = workshop.submit(write_job(tmp_path / "job", executor=trainer))
    assert workshop.wait(job_id) != "FINISHED:COMPLETED"
    # Secure logging leaves the name of the exception only.
    assert "ComponentNotAuthorized" in workshop.log("site-1", job_id)


@pytest.mark.parametrize("scope", [None, "open"])
def test_a05_a_job_without_the_agreed_scope_is_refused_at_every_site(
    workshop: Federation, tmp_path: Path, scope: str | None
) -> None:
    job_id = workshop.submit(write_job(tmp_path / "job", scope=scope))
    assert workshop.wait(job_id) == "FINISHED:FAILED_TO_RUN"
    refusals = str(workshop.meta(job_id)["job_deploy_detail"])
    assert refusals.count(f"privacy scope '{scope or ''}' is not allowed") == 3


def test_p12_what_must_not_leave_does_not_pass_the_kits_egress_filter(
    workshop: Federation, tmp_path: Path
) -> None:
    job_id = workshop.submit(write_job(tmp_path / "job", executor="faults.Leak"))
    assert workshop.wait(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    workshop.nvflare("job", "download", job_id, "-o", str(tmp_path / "out"))
    told = "".join(p.read_text() for p in (tmp_path / "out").rglob("log.txt"))
    assert "said TASK_RESULT_FILTER_ERROR" in told
    assert "said OK" not in told


def test_a13_an_archive_bomb_is_refused_before_it_is_stored(
    workshop: Federation, tmp_path: Path
) -> None:
    job = write_job(tmp_path / "bomb")
    (job / "app" / "config" / "zeros.json").write_bytes(b"0" * (32 << 20))
    stored = workshop.kit("coordinator") / "storage" / "jobs"
    before = sorted(stored.iterdir())
    with pytest.raises(Exception, match="JobArchiveRefused"):
        workshop.submit(job)
    assert sorted(stored.iterdir()) == before
