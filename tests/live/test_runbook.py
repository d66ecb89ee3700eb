"""The commands of docs/provisioning.md, as an operator types them."""

from collections.abc import Callable

from federation import SERVER, SITES, Federation, wait_for


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

    made.forget_sessions()
    done = made.nvflare("system", "shutdown", "all", "--force", **admin)
    assert done["exit_code"] == 0, done
    wait_for(lambda: not any(made.pids(n) for n in (SERVER, *SITES)), 60, "all processes to end")
