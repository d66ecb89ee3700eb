"""The ``polyclinic.yaml`` of a site folder: what an import declares, and what a person changed."""

from pathlib import Path
from typing import Any

import yaml

from polyclinic.errors import SiteError
from polyclinic.importing.plan import ImportPlan, ModalityRule
from polyclinic.importing.sheet import RECORD
from polyclinic.settings import SETTINGS_FILE
from polyclinic.storage import write_atomic


def read_settings(out: Path, plan: ImportPlan) -> dict[str, Any]:
    """What stands in the file, {} without one.

    Raises:
        SiteError: no YAML of this form, another storage (and so another key) than the plan's, or a
            cohort of this name that lies elsewhere.
    """
    path = out / SETTINGS_FILE
    if not path.is_file():
        return {}
    try:
        settings = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        cohort = dict(dict(settings.get("cohorts") or {}).get(plan.cohort) or {})
        dict(cohort.get("modalities") or {})
        storage, root = str(settings.get("storage", "state")), str(cohort.get("root", "."))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        raise _refused("readable YAML", "another content", "mend or remove it") from None
    if (out / storage).resolve() != (out / plan.storage).resolve():
        raise _refused("the storage of the plan", "another one", "name the same in both")
    if (out / root).resolve() != out.resolve():
        remedy = "name another cohort or folder"
        raise _refused("a cohort that lies in the site folder", "one elsewhere", remedy)
    return settings


def _refused(expected: str, got: str, remedy: str) -> SiteError:
    return SiteError(
        expected=f"{expected} in '{SETTINGS_FILE}' of the site folder",
        got=got,
        remedy=f"{remedy}, then import again",
        owner="data manager",
    )


def write_settings(out: Path, plan: ImportPlan) -> None:
    """Declare the cohort; what else stands in the file, stays.

    Raises:
        SiteError: see ``read_settings``.
    """
    settings = read_settings(out, plan)
    updated = {"site": plan.site, "storage": plan.storage} | settings
    cohorts = dict(updated.get("cohorts") or {})
    cohort = dict(cohorts.get(plan.cohort) or {})
    cohort |= {"root": ".", "patient_column": plan.patient_column}
    if plan.labels.record:
        cohort["record_column"] = RECORD
    kept = dict(cohort.get("modalities") or {})
    made = {name: _source(name, rule) for name, rule in plan.modalities.items()}
    # What a person added to a modality (units of columns, an own cache) is kept.
    cohort["modalities"] = kept | {n: dict(kept.get(n) or {}) | said for n, said in made.items()}
    updated["cohorts"] = cohorts | {plan.cohort: cohort}
    if updated != settings:
        text = yaml.safe_dump(updated, sort_keys=False, allow_unicode=True)
        write_atomic(out / SETTINGS_FILE, text.encode())


def is_series(rule: ModalityRule) -> bool:
    """Whether the slices of a volume lie in folders, which say what a table says elsewhere."""
    return rule.kind == "volume" and rule.of == "dicom"


def _source(name: str, rule: ModalityRule) -> dict[str, Any]:
    """One modality as ``polyclinic.yaml`` declares it."""
    said: dict[str, Any] = {"kind": rule.kind}
    if rule.source is not None:
        said["table"] = f"tables/{name}.csv"
    elif is_series(rule):
        said |= {"folder": name, "layout": "dicom"}
    else:
        films = rule.headers_of or name
        said |= {"folder": films, "files": f"{films}/files.csv"}
    if rule.layout:
        said["layout"] = rule.layout
    if rule.burned_in == "accept":
        said["burned_in"] = "accept"
    return said | ({"units": rule.units} if rule.units else {})
