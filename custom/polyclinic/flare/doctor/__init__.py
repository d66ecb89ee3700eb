"""Looks a startup kit over before it starts: ``polyclinic site doctor KIT``.

A check is a function from a ``Kit`` to findings; the lists below say which checks a role needs.
Every finding that is not in order carries the one sentence that mends it, and whose job that is.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from polyclinic.errors import PolyclinicError
from polyclinic.flare.doctor import certificates, cohorts, files, host, policies, port
from polyclinic.flare.doctor.kit import Finding, Kit, Report, failed

Check = Callable[[Kit], Iterator[Finding]]

EVERYONE: tuple[Check, ...] = (
    files.signed_manifest,
    files.closed_modes,
    policies.grpc_with_mutual_tls,
    certificates.issued_by_the_consortium,
    certificates.named_as_the_kit,
    certificates.in_date,
    certificates.key_belongs,
    host.versions,
)
RUNNING: tuple[Check, ...] = (
    policies.signed_jobs_only,
    policies.nobody_brings_code,
    policies.allow_list,
    policies.job_guards,
    files.storage_inside,
    host.start_script,
    host.settings,
)
SITE: tuple[Check, ...] = (
    policies.egress_filter,
    policies.log_streaming_off,
    host.device,
    host.quorum,
    cohorts.cohorts,
)
CHECKS = {
    "admin": EVERYONE,
    "server": (*EVERYONE, *RUNNING, port.server_port),
    "site": EVERYONE + RUNNING + SITE,
}


def examine(folder: Path, now: datetime | None = None) -> Report:
    """What a kit looks like at the moment ``now``.

    Raises:
        SiteError: the folder holds no startup kit.
    """
    kit = Kit(folder, now or datetime.now(UTC))
    findings = [f for check in CHECKS[kit.role] for f in _run(check, kit)]
    return Report(kit=kit.name, role=kit.role, findings=tuple(findings))


def _run(check: Check, kit: Kit) -> list[Finding]:
    """A check's findings; what it cannot read is a finding too, never a pass."""
    name = check.__name__.replace("_", "-")
    try:
        return list(check(kit)) or [Finding(name, "ok")]
    except PolyclinicError as error:
        what = f"expected {error.expected}, got {error.got}"
        return [failed(name, what, error.remedy, error.owner)]
    except Exception as error:
        # Whatever stops a check must stop the start.
        what = f"the check itself stopped: {type(error).__name__}"
        return [failed(name, what, "report this, with the kit's role", "consortium engineer")]
