"""Checks on the policy files: what a job, and whoever submits it, may do here."""

from collections.abc import Iterator
from typing import Any

from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.security.security import COMMAND_CATEGORIES, FLAuthorizer

from polyclinic.flare import policy
from polyclinic.flare.doctor.kit import Finding, Kit, failed, warned

_PUT_BACK = "put back the file that came with the kit"
_FORBIDDEN = ("byoc", "server-predeployed-flwr", "cat", "grep", "head", "ls", "pwd", "tail")
_ROLES = frozenset(policy.AUTHORIZATION["permissions"])
_RIGHTS = frozenset(
    {*COMMAND_CATEGORIES, *COMMAND_CATEGORIES.values()}
    | {"submit_job", "clone_job", "byoc", "server-predeployed-flwr"}
)


def grpc_with_mutual_tls(kit: Kit) -> Iterator[Finding]:
    """grpc, with certificates on both sides."""
    if kit.role == "admin":
        part = kit.config.get("admin", {})
        scheme, security = part.get("scheme"), part.get("connection_security")
    else:
        server = (kit.config.get("servers") or [{}])[0]
        scheme = server.get("service", {}).get("scheme")
        part = kit.config.get("client", {}) if kit.role == "site" else server
        security = part.get("connection_security")
    if scheme != policy.SCHEME:
        why = ": one idle connection blocks every site" if scheme == "tcp" else ""
        what = f"the scheme is '{scheme}', not '{policy.SCHEME}'{why}"
        yield failed("grpc-with-mutual-tls", what, _PUT_BACK, "site IT")
    if security != "mtls":
        what = f"connection_security is '{security}', not 'mtls'"
        yield failed("grpc-with-mutual-tls", what, _PUT_BACK, "site IT")


def signed_jobs_only(kit: Kit) -> Iterator[Finding]:
    """A job that nobody signed is not accepted."""
    if kit.config.get("require_signed_jobs") is not True:
        yield failed("signed-jobs-only", "unsigned jobs are accepted", _PUT_BACK, "site IT")


def nobody_brings_code(kit: Kit) -> Iterator[Finding]:
    """The authorization policy parses, holds no misspelt word, and gives nobody code or a shell."""
    name = "nobody-brings-code"
    content = kit.policy("authorization.json")
    try:
        authorizer = FLAuthorizer("this", content)
    except (SyntaxError, TypeError, AssertionError):
        yield failed(name, "local/authorization.json is not a policy", _PUT_BACK, "site IT")
        return
    for word in sorted(_strangers(content["permissions"])):
        what = f"local/authorization.json names '{word[:40]}', which is no role and no right"
        yield failed(name, what, _PUT_BACK, "site IT")
    # Somebody of this hospital or of another, with a job of their own: the most a rule can ask.
    granted = {
        (role, right)
        for role in content["permissions"]
        for right in _FORBIDDEN
        for who in (Person("somebody", "this", role), Person("somebody", "other", role))
        if authorizer.authorize(AuthzContext(right, who, submitter=who))[0]
    }
    for role, right in sorted(granted):
        what = f"role {role} has the right '{right}'"
        yield failed(name, what, f'set it to "none" in local/authorization.json; {_PUT_BACK}')


def _strangers(permissions: dict[str, Any]) -> set[str]:
    rights = {r for given in permissions.values() if isinstance(given, dict) for r in given}
    return (set(permissions) - _ROLES) | (rights - _RIGHTS)


def allow_list(kit: Kit) -> Iterator[Finding]:
    """A job may name our classes, those the consortium agreed on, and no others."""
    agreed = [str(c) for c in kit.facts.get("allow_classes", [])]
    wanted = {*policy.ALLOWED_CLASSES, *agreed}
    listed = kit.resources.get("class_allow_list")
    if not isinstance(listed, list):
        what = "local/resources.json has no class_allow_list, so FLARE's own applies"
        yield failed("allow-list", what, _PUT_BACK, "site IT")
        return
    if kit.resources.get("class_list_enforcement_mode") != "enforce":
        what = "the class list is not enforced"
        yield failed("allow-list", what, _PUT_BACK, "site IT")
    for extra in sorted({str(c) for c in listed} - wanted):
        what = f"the class list also allows '{extra[:60]}'"
        yield failed("allow-list", what, _PUT_BACK, "site IT")
    if missing := sorted(wanted - {str(c) for c in listed}):
        what = f"the class list lacks {', '.join(missing)}, so no job of ours can run"
        yield failed("allow-list", what, _PUT_BACK, "site IT")
    if agreed:
        what = f"the consortium allows {', '.join(agreed)} beside polyclinic"
        remedy = "make sure that this is agreed, or take allow_classes out of the description"
        yield warned("allow-list", what, remedy)


def job_guards(kit: Kit) -> Iterator[Finding]:
    """What looks at a job before it runs: at the server on submission, at a site on deployment."""
    wanted = {
        "server": [(policy.JOB_RESOURCES, policy.SERVER_JOB_RESOURCES)],
        "site": [
            (policy.JOB_RESOURCES, policy.SITE_JOB_RESOURCES),
            (policy.PARENT_RESOURCES, policy.SITE_PARENT_RESOURCES),
        ],
    }
    for name, content in wanted[kit.role]:
        there = kit.components(name)
        for component in content["components"]:
            if there.get(component["id"]) != component["path"]:
                what = f"startup/{name} does not load {component['path'].rpartition('.')[2]}"
                yield failed("job-guards", what, _PUT_BACK, "site IT")
    if kit.role == "server":
        listed = {c.get("id"): c for c in kit.resources.get("components", [])}
        manager = listed.get("job_manager", {})
        asked = manager.get("args", {}).get("minimum_sites", 0)
        if manager.get("path") != policy.JOB_MANAGER or asked < kit.facts["minimum_sites"]:
            what = "the server does not hold jobs to the consortium's minimum_sites"
            yield failed("job-guards", what, _PUT_BACK, "site IT")


def egress_filter(kit: Kit) -> Iterator[Finding]:
    """Every privacy scope ends in the egress filter, its patterns are sound, and none is default.

    Without privacy.json FLARE allows every scope and filters nothing.
    """
    content = kit.read(kit.local / "privacy.json")
    scopes = content.get("scopes")
    if not isinstance(scopes, list) or policy.SCOPE not in [s.get("name") for s in scopes]:
        what = f"local/privacy.json has no scope '{policy.SCOPE}'"
        yield failed("egress-filter", what, _PUT_BACK, "site IT")
        return
    if content.get("default_scope"):
        what = "local/privacy.json has a default scope, so a job may leave its scope out"
        yield failed("egress-filter", what, _PUT_BACK, "site IT")
    for scope in scopes:
        last = (scope.get("task_result_filters") or [{}])[-1]
        if last.get("path") != policy.EGRESS_FILTER:
            what = f"scope '{scope.get('name')}' does not end in the egress filter"
            yield failed("egress-filter", what, _PUT_BACK, "site IT")
            continue
        _build_egress_filter(last.get("args") or {})


def _build_egress_filter(args: dict[str, Any]) -> None:
    """Build the filter once: its constructor refuses patterns that can match nothing.

    Raises:
        PolyclinicError: what the constructor refuses.
    """
    # Imported here: numpy and FLARE's message types are not needed by the other checks.
    from polyclinic.flare.egress import EgressFilter

    EgressFilter(**args)


def log_streaming_off(kit: Kit) -> Iterator[Finding]:
    """Log lines of a hospital stay there: an exception's text may hold what a patient is called."""
    if kit.resources.get("allow_log_streaming") is not False:
        what = "log lines may be streamed to the server"
        yield failed("log-streaming-off", what, _PUT_BACK, "site IT")
    paths = [str(c.get("path")) for c in kit.resources.get("components", [])]
    if any("log_streamer" in p for p in paths):
        what = "a log streamer is among the components"
        yield failed("log-streaming-off", what, _PUT_BACK, "site IT")
