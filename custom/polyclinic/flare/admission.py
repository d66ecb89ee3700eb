"""Who lets a job in: the server on submission, and each hospital once more on deployment.

FLARE 2.9 unzips a job without a limit on its size, lets the job say how few sites are enough, reads
configs in formats that include files, and replaces ``{$NAME}`` in them by environment variables.
Both sides therefore check what a job may be before it runs:

* ``GuardedJobManager``  at the server: refuses a job that names too few sites, and an archive
  that is not a job's, before it is stored.
* ``SiteDeployer``       at a hospital: the same questions with the hospital's own answers
  (``minimum_sites`` of its ``polyclinic.yaml``), before the job's run folder is written.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.job_def_manager import SimpleJobDefManager
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.workspace import Workspace
from nvflare.app_common.storages.filesystem_storage import FilesystemStorage
from nvflare.private.fed.utils.app_deployer import AppDeployer

from polyclinic.errors import PolyclinicError, SiteError, StudyError
from polyclinic.flare.archive import SERVER, Fault, archive_faults, read_configs, rounds_faults
from polyclinic.flare.formats import json_only
from polyclinic.settings import load_settings


class JobArchiveRefused(StudyError):
    """A job's archive would unpack to more than a job can be, or elsewhere.

    With secure logging FLARE tells a submitter only the name of an exception, so the name speaks.
    """


class JobConfigRefused(JobArchiveRefused):
    """A job's files or configs are not those of a job, or its rounds average too few sites."""


def check_archive(
    archive: bytes | str, meta: Mapping[str, Any], minimum: int, *, app: bool = False
) -> None:
    """Pass an archive that is a job's: ordinary size, known files, plain configs, enough sites.

    Nothing is unpacked: ``zipfile`` never reads more than the size that the directory states.

    Args:
        meta: the job's.
        minimum: fewest sites that may train together here.
        app: the archive is of the app alone, as a hospital gets it.

    Raises:
        JobArchiveRefused: with the first fault.
    """
    kind = JobArchiveRefused
    try:
        with ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive) as unread:
            faults = archive_faults(unread)
            if not faults:
                kind = JobConfigRefused
                configs, faults = read_configs(unread, app=app)
                faults += rounds_faults(configs.get(SERVER, {}), meta, minimum)
    except (BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        faults = [Fault("archive", type(error).__name__, "submit the job folder itself")]
    if faults:
        raise kind(
            expected="a job's archive",
            got=f"{faults[0].where}: {faults[0].what}",
            remedy=f"{faults[0].remedy}; see 'polyclinic job show'",
        )


def quorum_fault(meta: Mapping[str, Any], minimum: int) -> str:
    """One sentence when a job would run with fewer sites than ``minimum``, else an empty string."""
    asked = meta.get(JobMetaKey.MIN_CLIENTS.value)
    if isinstance(asked, int) and not isinstance(asked, bool) and asked >= minimum:
        return ""
    return (
        f"min_clients of the job is {asked!r}, but no fewer than {minimum} sites may train "
        "together here; raise min_clients in meta.json (researcher)"
    )


class GuardedJobManager(SimpleJobDefManager):
    """The server's job store, with a look at every job before it is stored.

    Args:
        folder: where jobs are kept, relative to the kit, which start.sh makes the working folder.
        minimum_sites: fewest sites a job may ask for.
    """

    def __init__(
        self, folder: str, minimum_sites: int = 1, job_store_id: str = "job_store"
    ) -> None:
        super().__init__(uri_root=_in_kit(folder), job_store_id=job_store_id)
        json_only()
        self.minimum_sites = minimum_sites

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Refuse a submitted job with a sentence that the submitter reads."""
        super().handle_event(event_type, fl_ctx)
        if event_type != EventType.SUBMIT_JOB:
            return
        fault = quorum_fault(fl_ctx.get_prop(FLContextKey.JOB_META) or {}, self.minimum_sites)
        if fault:
            fl_ctx.set_prop(FLContextKey.JOB_BLOCK_REASON, fault, private=True, sticky=False)

    def create(
        self, meta: dict[str, Any], uploaded_content: bytes | str, fl_ctx: FLContext
    ) -> dict[str, Any]:
        """The stored job's meta.

        Raises:
            JobArchiveRefused: the archive is not one of a job.
        """
        check_archive(uploaded_content, meta, self.minimum_sites)
        created: dict[str, Any] = super().create(meta, uploaded_content, fl_ctx)
        return created


class SiteDeployer(AppDeployer):
    """A hospital's own last word before a job's files are written into a run folder."""

    def __init__(self) -> None:
        super().__init__()
        json_only()

    def deploy(
        self,
        workspace: Workspace,
        job_id: str,
        job_meta: dict[str, Any],
        app_name: str,
        app_data: bytes,
        fl_ctx: FLContext,
    ) -> str:
        """An empty string when the job was deployed, else why it was not."""
        try:
            settings = load_settings(Path(workspace.get_site_config_dir()) / "polyclinic.yaml")
        except PolyclinicError as error:
            return str(error)
        fault = quorum_fault(job_meta, settings.minimum_sites)
        if fault:
            return fault
        try:
            check_archive(app_data, job_meta, settings.minimum_sites, app=True)
        except JobArchiveRefused as error:
            return str(error)
        why: str = super().deploy(workspace, job_id, job_meta, app_name, app_data, fl_ctx)
        return why


class KitStorage(FilesystemStorage):
    """FLARE's file store in a folder of the kit: a kit may lie anywhere, FLARE wants a full path.

    Args:
        folder: relative to the kit, which start.sh makes the working folder.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(root_dir=_in_kit(folder))


def _in_kit(folder: str) -> str:
    """The full path of a folder below the working folder.

    FLARE's stores make their folder when they are built, and a job may name any class of this
    package; so nothing outside the kit can be named.

    Raises:
        SiteError: the folder lies elsewhere.
    """
    kit = Path.cwd().resolve()
    path = (kit / folder).resolve()
    if kit not in path.parents:
        raise SiteError(
            expected="a folder inside the kit", got="one elsewhere", remedy="name a relative folder"
        )
    return str(path)
