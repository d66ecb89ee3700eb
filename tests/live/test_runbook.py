"""The commands of docs/provisioning.md, as an operator types them."""

import re
from collections.abc import Callable
from pathlib import Path

from federation import SERVER, SITES, Federation, wait_for
from smalljob import write_job


def test_a_site_is_disabled_enabled_and_shut_down_and_the_system_stops(
    fresh_federation: Callable[..., Federation],
) -> None:
    made = fresh_federation().bring_up()
    admin = {"role": "project_admin"}

    status = made.nvflare("system", "status", **admin)
    assert status["exit_code"] == 0
    assert all(site in str(status["data"]) for site in SITES)

    assert made.nvflare("system", "disable-client", "site-2", "--force", **admin)["exit_code"] == 0
    wait_for(lambda: made.connected() == ["site-1", "site-3"], 30, "site-2 to be out")
    assert made.nvflare("system", "enable-client", "site-2", "--force", **admin)["exit_code"] == 0
    made.kill("site-2")
    made.restart("site-2")
    wait_for(lambda: made.connected() == list(SITES), 30, "site-2 to be back")

    down = made.nvflare("system", "shutdown", "client", "site-3", "--force", **admin)
    assert down["exit_code"] == 0, down
    wait_for(lambda: not made.pids("site-3"), 60, "site-3 to end")

    made.forget_sessions()
    done = made.nvflare("system", "shutdown", "all", "--force", **admin)
    assert done["exit_code"] == 0, done
    wait_for(lambda: not any(made.pids(n) for n in (SERVER, *SITES)), 60, "all processes to end")


def test_the_console_submits_lists_and_says_goodbye(workshop: Federation, tmp_path: Path) -> None:
    job = write_job(tmp_path / "by_console")
    script = workshop.kit("lead") / "startup" / "fl_admin.sh"
    typed = f"lead@north.example\nsubmit_job {job}\nlist_jobs\nbye\n"
    said = workshop.run(["bash", "-c", f"printf '{typed}' | '{script}'"]).stdout
    found = re.search(r"Submitted job: ([0-9a-f-]{36})", said)
    assert found, said
    assert workshop.wait(found[1]) == "FINISHED:COMPLETED"
