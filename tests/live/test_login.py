"""The tested path of a deployment: provision, start, log in."""

from federation import Federation


def test_three_hospitals_register_and_the_lead_logs_in(federation: Federation) -> None:
    assert federation.connected() == ["site-1", "site-2", "site-3"]
    assert federation.session("lead").list_jobs() == []
