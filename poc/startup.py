"""POC kits under the rules of a real site: FLARE makes them, our policy is laid over them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from polyclinic.flare import policy

PROJECT = "polyclinic_poc"
SITES = ("site-1", "site-2", "site-3")
LEAD = "lead@polyclinic.example"


def project_of(port: int) -> dict[str, Any]:
    """FLARE's own POC project, with a free port and grpc."""
    lighter = "nvflare.lighter.impl"
    return {
        "api_version": 3,
        "name": PROJECT,
        "description": "polyclinic in POC mode",
        "participants": [
            {"name": "server", "type": "server", "org": "poc", "fed_learn_port": port}
            | {"default_host": "localhost"},
            {"name": "admin@polyclinic.example", "type": "admin", "org": "poc"}
            | {"role": "project_admin"},
            {"name": LEAD, "type": "admin", "org": "poc", "role": "lead"},
            *({"name": site, "type": "client", "org": "poc"} for site in SITES),
        ],
        "builders": [
            {
                "path": f"{lighter}.workspace.WorkspaceBuilder",
                "args": {"template_file": "master_template.yml"},
            },
            {
                "path": f"{lighter}.static_file.StaticFileBuilder",
                "args": {"config_folder": "config", "scheme": policy.SCHEME},
            },
            {"path": f"{lighter}.cert.CertBuilder"},
            {"path": f"{lighter}.signature.SignatureBuilder"},
        ],
    }


def harden_server(kit: Path) -> None:
    """The server's policy, its storage inside the kit, and loopback only."""
    # FLARE listens on every address unless the target is loopback.
    path = kit / "startup" / "fed_server.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    service = config["servers"][0]["service"]
    service["target"] = "localhost:" + service["target"].rpartition(":")[2]
    _write(path, config)
    resources = policy.server_resources(
        minimum_sites=2, lost_after_seconds=30, max_jobs=1, extra_classes=()
    )
    # A kit from provisioning starts in its own folder; a POC kit starts where nvflare does.
    text = json.dumps(resources).replace('"storage/', f'"{kit}/storage/')
    _write(kit / "local" / "resources.json", json.loads(text))
    _write(kit / "local" / "authorization.json", policy.AUTHORIZATION)
    _write_yaml(kit / "local" / "polyclinic.yaml", {"site": "server", "storage": "../storage"})


def harden_site(kit: Path, source: Path) -> None:
    """A hospital's policy, and its settings with the folder of its data."""
    settings = yaml.safe_load((source / "polyclinic.yaml").read_text(encoding="utf-8"))
    settings["storage"] = "../storage"
    held = set()
    for cohort in settings["cohorts"].values():
        cohort["root"] = str((source / cohort.get("root", ".")).resolve())
        held |= set(cohort["modalities"])
    _write_yaml(kit / "local" / "polyclinic.yaml", settings)
    resources = policy.site_resources(
        gpus=0, gpu_memory_gib=0, modalities=sorted(held), extra_classes=()
    )
    _write(kit / "local" / "resources.json", resources)
    _write(kit / "local" / "authorization.json", policy.AUTHORIZATION)
    _write(kit / "local" / "privacy.json", policy.PRIVACY)
    _write(kit / "startup" / policy.JOB_RESOURCES, policy.SITE_JOB_RESOURCES)
    _write(kit / "startup" / policy.PARENT_RESOURCES, policy.SITE_PARENT_RESOURCES)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
