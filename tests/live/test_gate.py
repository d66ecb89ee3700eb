"""A02, A06, A11: kits that somebody changed, and a server that somebody else owns."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from federation import SERVER, SITES, Federation, wait_for
from smalljob import write_job

from polyclinic.flare.manifest import NAME

ANYTHING = {"project_admin": "any", "lead": "any"}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))


def start(federation: Federation, name: str) -> tuple[int, str]:
    """Exit code and words of a kit's start.sh, which leaves a daemon behind when it succeeds."""
    said = federation.folder / f"{name}.said"
    script = federation.kit(name) / "startup" / "start.sh"
    done = federation.run(["bash", "-c", f"'{script}' > '{said}' 2>&1"])
    return done.returncode, said.read_text()


def test_a06_a11_a_changed_kit_does_not_start_and_a_whole_one_does(
    fresh_federation: Callable[..., Federation],
) -> None:
    made = fresh_federation()
    edit(made.kit("site-1") / "startup" / "fed_client.json", require_signed_jobs=False)
    edit(made.kit("site-2") / "local" / "resources.json", class_allow_list=["*"])
    (made.kit("site-3") / "local" / "privacy.json").unlink()
    for name, words in (
        ("site-1", ["fed_client.json was changed", "unsigned jobs are accepted"]),
        ("site-2", ["resources.json was changed", "the class list also allows '*'"]),
        ("site-3", ["privacy.json was removed", "put back the file"]),
    ):
        code, said = start(made, name)
        assert code == 1
        assert all(w in said for w in [*words, f"site '{name}' does not start"])
        assert made.pids(name) == []
    code, said = start(made, SERVER)
    assert code == 0, said
    wait_for(lambda: len(made.pids(SERVER)) > 1, 30, "the server's process")


def test_a11_the_gate_also_stands_in_the_inner_script_and_on_the_manifest_itself(
    fresh_federation: Callable[..., Federation],
) -> None:
    made = fresh_federation()
    kit = made.kit("site-1")
    inner = ["bash", str(kit / "startup" / "sub_start.sh"), "--once"]
    manifest = kit / "startup" / NAME
    signed = manifest.read_text()

    edit(kit / "local" / "authorization.json", permissions={"lead": "any"})
    listed = json.loads(signed)
    manifest.write_text(json.dumps(listed | {"files": {}}))
    done = made.run(inner)
    assert done.returncode == 1
    assert "signature is not the consortium's" in done.stderr

    manifest.unlink()
    done = made.run(inner)
    assert done.returncode == 1
    assert f"{NAME} is missing" in done.stderr


def test_a02_hospitals_refuse_code_in_a_job_even_from_a_server_that_lets_it_in(
    fresh_federation: Callable[..., Federation], tmp_path: Path
) -> None:
    made = fresh_federation(Path(__file__).parent, allow_classes=["faults."])
    edit(made.kit(SERVER) / "local" / "authorization.json", permissions=ANYTHING)
    made.start_ungated_server()
    made.start(*SITES)
    made.ready()
    job_id = made.submit(write_job(tmp_path / "job", custom=True))
    assert made.wait(job_id) == "FINISHED:FAILED_TO_RUN"
    refusals = str(made.meta(job_id)["job_deploy_detail"])
    assert refusals.count("BYOC not permitted") == 3


def test_a02_the_server_refuses_code_in_a_job(workshop: Federation, tmp_path: Path) -> None:
    job_id = workshop.submit(write_job(tmp_path / "job", custom=True))
    assert workshop.wait(job_id) == "FINISHED:FAILED_TO_RUN"
    assert "BYOC not permitted" in str(workshop.meta(job_id)["job_deploy_detail"])


@pytest.mark.parametrize("quorum", [1, 2])
def test_a03_hospitals_refuse_a_quorum_below_their_own_even_from_a_server_that_lets_it_in(
    fresh_federation: Callable[..., Federation], tmp_path: Path, quorum: int
) -> None:
    made = fresh_federation(Path(__file__).parent, allow_classes=["faults."], minimum_sites=2)
    for site in SITES:
        settings = made.kit(site) / "local" / "polyclinic.yaml"
        settings.write_text(settings.read_text().replace("minimum_sites: 2", "minimum_sites: 3"))
    resources = made.kit(SERVER) / "local" / "resources.json"
    resources.write_text(resources.read_text().replace('"minimum_sites": 2', '"minimum_sites": 1'))
    made.start_ungated_server()
    made.start(*SITES)
    made.ready()
    job_id = made.submit(write_job(tmp_path / "job", min_clients=quorum))
    assert made.wait(job_id) == "FINISHED:FAILED_TO_RUN"
    assert str(made.meta(job_id)["job_deploy_detail"]).count("no fewer than 3 sites") == 3
