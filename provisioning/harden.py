"""What polyclinic writes over a kit that FLARE made: policy files, start gate, modes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from consortium import Consortium, Hospital
from polyclinic import __version__
from polyclinic.errors import SiteError
from polyclinic.flare import policy

# The line of FLARE's sub_start.sh that puts a world-creatable folder, and the working folder, on
# the module path; our block takes its place.
_PYTHONPATH = "export PYTHONPATH=/local/custom:$PYTHONPATH"
_START = "$DIR/sub_start.sh &"
_SHEBANG = "#!/usr/bin/env bash\n"
# The Python is looked for when the kit starts: whoever made the kit did so on another machine.
_FIND_PYTHON = """
if ! PYTHON="$("${POLYCLINIC_PYTHON:-python3}" -c \\
    'import sys, nvflare, polyclinic.errors; print(sys.executable)' 2> /dev/null)"; then
  echo "Expected a Python with polyclinic and nvflare, got '${POLYCLINIC_PYTHON:-python3}'," \\
    "which cannot import them; activate the environment they are installed in, or set" \\
    "POLYCLINIC_PYTHON to its python (site IT)." >&2
  exit 4
fi
"""
_GATE = '"$PYTHON" -m polyclinic.flare.doctor "{kit}"'
_ENVIRONMENT = """umask 077
mkdir -p "$WORKSPACE/tmp" "$WORKSPACE/storage"
cd "$WORKSPACE"
export NVFLARE_SECURE_LOGGING=1
export TMPDIR="$WORKSPACE/tmp"
export PYTHONPATH="${PYTHONPATH:-}\""""


def find_hospital(consortium: Consortium, name: str) -> Hospital | None:
    """The hospital of that name."""
    return next((h for h in consortium.hospitals if h.name == name), None)


def harden_site(kit: Path, consortium: Consortium, hospital: Hospital) -> None:
    """Write a hospital's policy, its ``polyclinic.yaml`` to fill in, and the start gate."""
    resources = policy.site_resources(
        gpus=hospital.gpus,
        gpu_memory_gib=hospital.gpu_memory_gib,
        modalities=hospital.modalities,
        extra_classes=consortium.allow_classes,
    )
    _write_local(kit, resources)
    _write_json(kit / "local" / "privacy.json", policy.PRIVACY)
    _write_json(kit / "startup" / policy.JOB_RESOURCES, policy.SITE_JOB_RESOURCES)
    _write_json(kit / "startup" / policy.PARENT_RESOURCES, policy.SITE_PARENT_RESOURCES)
    _write_facts(kit, consortium, "site")
    settings = site_settings(consortium, hospital)
    (kit / "local" / "polyclinic.yaml").write_text(settings, encoding="utf-8")
    _gate(kit)


def harden_server(kit: Path, consortium: Consortium) -> None:
    """Write the server's policy and the start gate."""
    resources = policy.server_resources(
        minimum_sites=consortium.minimum_sites,
        lost_after_seconds=consortium.server.lost_after_seconds,
        max_jobs=consortium.server.max_jobs,
        extra_classes=consortium.allow_classes,
    )
    _write_local(kit, resources)
    _write_json(kit / "startup" / policy.JOB_RESOURCES, policy.SERVER_JOB_RESOURCES)
    _write_facts(kit, consortium, "server")
    settings = {"site": consortium.server.name, "storage": "../storage"}
    (kit / "local" / "polyclinic.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    _gate(kit)


def harden_admin(kit: Path, consortium: Consortium, name: str) -> None:
    """Mark an admin's kit; it runs nothing that needs a policy."""
    if name not in {a.name for a in consortium.admins}:
        raise SiteError(
            expected="a participant of the description",
            got=f"'{name}'",
            remedy="report this: FLARE made a kit that nobody asked for",
            owner="consortium engineer",
        )
    _write_facts(kit, consortium, "admin")


def site_settings(consortium: Consortium, hospital: Hospital) -> str:
    """A ``polyclinic.yaml`` for the hospital's data manager to complete."""
    cohorts = {
        cohort: {
            "root": f"/data/{cohort}",
            "modalities": {
                m: {
                    "kind": kind,
                    **({"table": f"{m}.parquet"} if kind in _TABLES else {"folder": m}),
                }
                for m, kind in held.items()
            },
        }
        for cohort, held in hospital.cohorts.items()
    }
    settings = {
        "site": hospital.name,
        "storage": "../storage",
        "minimum_sites": consortium.minimum_sites,
        "cohorts": cohorts,
    }
    text = yaml.safe_dump(settings, sort_keys=False)
    for line, comment in _CHOICES:
        text = re.sub(line, rf"\g<0>\n{comment}", text, flags=re.MULTILINE)
    return _HEAD.format(name=hospital.name) + text


_HEAD = """\
# This hospital's own facts; they never leave it. Set every root to where its data lie; lines that
# are commented out are choices, see docs/prepare-your-data.md.
#
# To try the kit with the demo ('polyclinic data generate demo'): copy the modalities block of
# demo/{name}/polyclinic.yaml over the one below, set root to that folder, and max_loss_fraction to
# 0.05, because some of the demo's files are broken on purpose.
"""
# What may follow a line of the settings, with the indent of that line.
_CHOICES = (
    (
        r"^minimum_sites: .*",
        "# minimum_cell: 11          # no count, and no class mean, of fewer patients leaves\n"
        "# max_loss_fraction: 0.01   # share of patients that may be set aside before a job stops",
    ),
    (r"^( +)table: .*", r"\1# units: log2 ratio      # as the study names them"),
    (
        r"^( +)folder: .*",
        r"\1# layout: clam           # or trident, stamp" + "\n"
        r"\1# extractor: uni_v1      # as the study names it",
    ),
)
_TABLES = ("vector", "series")


def shut(folder: Path) -> None:
    """Close a folder to everyone but its owner: 0700 for folders and scripts, 0600 for the rest."""
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() or path.suffix == ".sh" else 0o600)


def _write_local(kit: Path, resources: Mapping[str, Any]) -> None:
    """The effective policy under its effective name; FLARE's default and sample files go."""
    local = kit / "local"
    for name in ("resources.json.default", "authorization.json.default", "privacy.json.sample"):
        (local / name).unlink()
    _write_json(local / "resources.json", resources)
    _write_json(local / "authorization.json", policy.AUTHORIZATION)


def _write_facts(kit: Path, consortium: Consortium, role: str) -> None:
    facts = {
        "version": 1,
        "consortium": consortium.name,
        "name": kit.name,
        "role": role,
        "polyclinic": __version__,
        "minimum_sites": consortium.minimum_sites,
        "allow_classes": list(consortium.allow_classes),
    }
    _write_json(kit / "startup" / policy.KIT_FACTS, facts)


def _gate(kit: Path) -> None:
    """A kit that fails the doctor does not start, neither by start.sh nor by sub_start.sh."""
    start, inner = kit / "startup" / "start.sh", kit / "startup" / "sub_start.sh"
    # The inner gate stands too, but what start.sh warned of is not said twice.
    gate = f"{_GATE.format(kit='$DIR/..')} || exit 1\n  POLYCLINIC_WARNED=yes {_START}"
    _replace(start, _START, gate)
    gate = f"{_GATE.format(kit='$KIT_WORKSPACE')} ${{POLYCLINIC_WARNED:+--no-warnings}} || exit 1"
    _replace(inner, _PYTHONPATH, f"{_ENVIRONMENT}\n{gate}")
    _replace(inner, "exec python3 ", 'exec "$PYTHON" ')
    for script in (start, inner):
        _replace(script, _SHEBANG, _SHEBANG + _FIND_PYTHON)


def _replace(script: Path, old: str, new: str) -> None:
    text = script.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise SiteError(
            expected=f"one line '{old}' in FLARE's {script.name}",
            got=str(text.count(old)),
            remedy="install the pinned version of nvflare",
            owner="consortium engineer",
        )
    script.write_text(text.replace(old, new), encoding="utf-8")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
