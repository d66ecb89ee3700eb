"""The tested path of a deployment: provision, start, log in."""

from federation import Federation


def test_three_hospitals_register_and_everyone_may_look(federation: Federation) -> None:
    assert federation.connected() == ["site-1", "site-2", "site-3"]
    for role in ("lead", "member", "org_admin"):
        assert isinstance(federation.session(role).list_jobs(), list)
