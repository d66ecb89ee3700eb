"""A site as FLARE's process sees it: its settings, the job's study and who else takes part."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey

from polyclinic.errors import SiteError, StudyError
from polyclinic.flare.bundle import check_bundle
from polyclinic.settings import SiteSettings, load_settings
from polyclinic.study import Study, load_study

SETTINGS = "polyclinic.yaml"
CONTRACT = "polyclinic.contract"  # in FLARE's context: what the job's client half exchanges here
ALGORITHMS = "polyclinic.algorithms."  # polyclinic.jobs has it too, and torch with it


@dataclass(frozen=True)
class Site:
    """What the executor and the egress filter need to know of their own site.

    Attributes:
        settings: from the site's ``polyclinic.yaml``.
        study: from the job.
    """

    settings: SiteSettings
    study: Study

    @property
    def held(self) -> tuple[str, ...]:
        """Modalities of the study that this site trains on and announces, sorted."""
        declared = self.settings.cohort(self.study.name).held
        return tuple(m for m in declared if m in self.study.modalities)

    @property
    def offers_anchor(self) -> bool:
        """Whether this site offers to do the server's training step, and has what that takes."""
        whole = set(self.held) == set(self.study.modalities)
        return whole and self.settings.cohort(self.study.name).anchor


def settings_path(local: Path, identity: str) -> Path:
    """Where a site's settings lie: ``polyclinic.yaml``, or one file a site in a simulation."""
    simulated = local / "sites" / f"{identity}.yaml"
    return local / SETTINGS if (local / SETTINGS).exists() or not simulated.exists() else simulated


def own_settings(fl_ctx: FLContext) -> SiteSettings:
    """Settings of the site this process belongs to.

    Raises:
        SiteError: no settings, or settings of another site.
    """
    workspace = fl_ctx.get_engine().get_workspace()
    identity = fl_ctx.get_identity_name()
    try:
        settings = load_settings(settings_path(Path(workspace.get_site_config_dir()), identity))
    except SiteError:
        # What is wrong may name other cohorts of the site; 'site doctor' shows it there.
        raise SiteError(
            expected="a polyclinic.yaml that holds",
            got="one that does not",
            remedy="mend what 'polyclinic site doctor' lists",
        ) from None
    if settings.site != identity:
        raise SiteError(
            expected="the name of this kit under 'site' in polyclinic.yaml",
            got="another name",
            remedy="correct 'site'",
        )
    return settings


def find_site(fl_ctx: FLContext) -> Site:
    """The site this process belongs to, for the job it runs.

    Raises:
        SiteError: no settings, or settings of another site.
        StudyError: the job's study cannot be read, or its bundled code is not what runs.
    """
    settings = own_settings(fl_ctx)
    workspace = fl_ctx.get_engine().get_workspace()
    config = Path(workspace.get_app_config_dir(fl_ctx.get_job_id()))
    check_bundle(config)
    return Site(settings, load_study(config))


def participants(fl_ctx: FLContext) -> int:
    """How many sites the server says take part in this job; 0 when it does not say."""
    meta = fl_ctx.get_prop(FLContextKey.JOB_META)
    clients = meta.get(JobMetaKey.JOB_CLIENTS) if isinstance(meta, Mapping) else None
    return len(clients) if isinstance(clients, list) else 0


def require_company(settings: SiteSettings, count: int) -> None:
    """Refuse a job with so few sites that an average would show this one's update.

    Raises:
        SiteError: fewer than the site's ``minimum_sites``.
    """
    if count < settings.minimum_sites:
        raise SiteError(
            expected=f"at least {settings.minimum_sites} sites in the job (minimum_sites)",
            got=str(count),
            remedy="submit the job to more sites",
            owner="researcher",
        )


def answering(scalars: Mapping[str, Any]) -> int | None:
    """How many sites the server says answered the census; None when it does not say.

    A job may be admitted for many sites and be left with one; what is no number counts as none.
    """
    if "sites" not in scalars:
        return None
    count = scalars["sites"]
    return count if isinstance(count, int) and not isinstance(count, bool) else 0


def client_spec(client: Any) -> dict[str, Any]:
    """``{"path", "args"}`` of a client half: as the job wrote it, or read off the built dataclass.

    FLARE's class list does not look into what it does not build, so this does.

    Raises:
        StudyError: no path under ``polyclinic.algorithms``.
    """
    if isinstance(client, Mapping):
        path, args = str(client.get("path")), client.get("args") or {}
    else:
        path = f"{type(client).__module__}.{type(client).__qualname__}"
        args = asdict(client) if is_dataclass(client) and not isinstance(client, type) else {}
    if not path.startswith(ALGORITHMS) or not isinstance(args, Mapping):
        raise StudyError(
            expected=f"a client half under {ALGORITHMS[:-1]}, with its arguments",
            got=f"'{path}'",
            remedy="correct 'client' in config_fed_client.json",
        )
    return {"path": path, "args": dict(args)}
