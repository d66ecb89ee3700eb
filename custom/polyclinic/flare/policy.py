"""The policy every kit carries: what a hospital allows, and what it never does.

Provisioning writes it, ``polyclinic site doctor`` compares a kit with it; it is said nowhere else.
Threat and gap numbers are those of docs/provisioning.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

SCOPE = "polyclinic"
SCHEME = "grpc"
KIT_FACTS = "polyclinic.json"
PARENT_RESOURCES = "polyclinic__p_resources.json"
JOB_RESOURCES = "polyclinic__j_resources.json"

# Two sub-packages whose constructors only store and validate; never ``polyclinic.`` as a whole.
ALLOWED_CLASSES = ("polyclinic.flare.", "polyclinic.algorithms.")

EGRESS_FILTER = "polyclinic.flare.egress.EgressFilter"
JOB_FILTER_BAN = "polyclinic.flare.ban.JobFilterBan"
DEFINED_HERE = "polyclinic.flare.ban.DefinedHere"
SITE_DEPLOYER = "polyclinic.flare.admission.SiteDeployer"
JOB_MANAGER = "polyclinic.flare.admission.GuardedJobManager"
SITE_LOSS_TOLERANCE = "polyclinic.flare.endurance.SiteLossTolerance"
KIT_STORAGE = "polyclinic.flare.admission.KitStorage"

# Rights that nobody has anywhere: code in jobs, and a shell at a site.
_NOBODY = {"shell_commands": "none", "byoc": "none", "server-predeployed-flwr": "none"}

AUTHORIZATION: dict[str, Any] = {
    "format_version": "1.0",
    "permissions": {
        "project_admin": {
            "submit_job": "any",
            "clone_job": "none",
            "manage_job": "any",
            "download_job": "any",
            "view": "any",
            "operate": "any",
            **_NOBODY,
        },
        "org_admin": {
            "submit_job": "none",
            "clone_job": "none",
            "manage_job": "o:submitter",
            "download_job": "o:submitter",
            "view": "any",
            "operate": "o:site",
            **_NOBODY,
        },
        "lead": {
            "submit_job": "any",
            "clone_job": "n:submitter",
            "manage_job": "n:submitter",
            "download_job": "n:submitter",
            "view": "any",
            "operate": "o:site",
            **_NOBODY,
        },
        "member": {"view": "any", **_NOBODY},
    },
}

# No default scope on purpose: a job that names no scope is refused.
PRIVACY: dict[str, Any] = {
    "scopes": [
        {
            "name": SCOPE,
            "properties": {},
            "task_data_filters": [],
            "task_result_filters": [{"path": EGRESS_FILTER, "args": {}}],
        }
    ]
}

SITE_JOB_RESOURCES: dict[str, Any] = {
    "components": [{"id": "job_filter_ban", "path": JOB_FILTER_BAN, "args": {}}]
}

# The server's own job filters (guard, slice) are wanted, so only re-exports are refused there.
SERVER_JOB_RESOURCES: dict[str, Any] = {
    "components": [{"id": "defined_here", "path": DEFINED_HERE, "args": {}}]
}

SITE_PARENT_RESOURCES: dict[str, Any] = {
    "components": [{"id": "app_deployer", "path": SITE_DEPLOYER, "args": {}}]
}


def site_resources(
    *, gpus: int, gpu_memory_gib: int, modalities: Sequence[str], extra_classes: Sequence[str]
) -> dict[str, Any]:
    """A hospital's ``local/resources.json``: no log streamer, and no class but ours in a job.

    Args:
        modalities: top-level keys of this file reach the server, so it knows who holds what.
        extra_classes: further prefixes or classes that the consortium agreed on.
    """
    components = [
        (
            "resource_manager",
            "nvflare.app_common.resource_managers.gpu_resource_manager.GPUResourceManager",
            {"num_of_gpus": gpus, "mem_per_gpu_in_GiB": gpu_memory_gib, "expiration_period": 300},
        ),
        (
            "resource_consumer",
            "nvflare.app_common.resource_consumers.gpu_resource_consumer.GPUResourceConsumer",
            {},
        ),
        (
            "process_launcher",
            "nvflare.app_common.job_launcher.client_process_launcher.ClientProcessJobLauncher",
            {},
        ),
    ]
    return {
        "format_version": 2,
        **class_list(extra_classes),
        "allow_log_streaming": False,
        "modalities": sorted(modalities),
        "client": {"retry_timeout": 30, "compression": "Gzip"},
        "components": [{"id": i, "path": p, "args": a} for i, p, a in components],
    }


def server_resources(
    *, minimum_sites: int, lost_after_seconds: int, max_jobs: int, extra_classes: Sequence[str]
) -> dict[str, Any]:
    """The server's ``local/resources.json``: stores inside the kit, jobs looked at on admission."""
    return {
        "format_version": 2,
        **class_list(extra_classes),
        "servers": [
            {
                "admin_storage": "transfer",
                "max_num_clients": 100,
                "heart_beat_timeout": lost_after_seconds,
                "admin_timeout": 10.0,
            }
        ],
        "snapshot_persistor": {
            "path": "nvflare.app_common.state_persistors.storage_state_persistor"
            ".StorageStatePersistor",
            "args": {
                "uri_root": "/",
                "storage": {"path": KIT_STORAGE, "args": {"folder": "storage/snapshots"}},
            },
        },
        "components": [
            {
                "id": "job_scheduler",
                "path": "nvflare.app_common.job_schedulers.job_scheduler.DefaultJobScheduler",
                "args": {"max_jobs": max_jobs},
            },
            {
                "id": "job_manager",
                "path": JOB_MANAGER,
                "args": {"folder": "storage/jobs", "minimum_sites": minimum_sites},
            },
            {"id": "site_loss_tolerance", "path": SITE_LOSS_TOLERANCE, "args": {}},
            {
                "id": "job_store",
                "path": "nvflare.app_common.storages.filesystem_storage.FilesystemStorage",
            },
            {
                "id": "process_launcher",
                "path": "nvflare.app_common.job_launcher.server_process_launcher"
                ".ServerProcessJobLauncher",
                "args": {},
            },
        ],
    }


def class_list(extra_classes: Sequence[str]) -> Mapping[str, Any]:
    """The part of ``resources.json`` that says which classes a job may name."""
    return {
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": [*ALLOWED_CLASSES, *extra_classes],
    }
