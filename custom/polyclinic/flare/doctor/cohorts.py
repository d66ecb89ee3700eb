"""Do the data lie where polyclinic.yaml says? What is in them is the work of ``data check``."""

import os
from collections.abc import Iterator
from pathlib import Path

from polyclinic.flare.doctor.kit import Finding, Kit, failed
from polyclinic.settings import CohortSource, load_settings


def cohorts(kit: Kit) -> Iterator[Finding]:
    """Every cohort's folder, manifest, tables and folders of files are there and can be read."""
    own = load_settings(kit.local / "polyclinic.yaml")
    if not own.cohorts:
        yield _wrong("polyclinic.yaml declares no cohort", "declare one under 'cohorts'")
    for name, cohort in own.cohorts.items():
        root = Path(cohort.root)
        if not _readable_folder(root):
            what = f"the folder of cohort '{name}' {_fault(root)}"
            yield _wrong(what, "set its 'root' in polyclinic.yaml to where the data lie")
            continue
        manifest = root / cohort.manifest
        if not _readable_file(manifest):
            what = f"the manifest of cohort '{name}' {_fault(manifest)}"
            remedy = "put the manifest into the cohort's folder, or name it under 'manifest'"
            yield _wrong(what, remedy)
        yield from _sources(name, cohort)


def _sources(name: str, cohort: CohortSource) -> Iterator[Finding]:
    for modality, source in cohort.modalities.items():
        places = (
            ("table", source.table, _readable_file),
            ("folder", source.folder, _readable_folder),
        )
        for key, place, readable in places:
            path = Path(cohort.root) / place
            if place and not readable(path):
                # The last part only: where a hospital keeps its studies is not for a log.
                what = f"{key} '{path.name}' of modality '{modality}' of cohort '{name}'"
                remedy = f"put it there, or correct '{key}' of {modality} in polyclinic.yaml"
                yield _wrong(f"{what} {_fault(path)}", remedy)


def _readable_file(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _readable_folder(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.R_OK | os.X_OK)


def _fault(path: Path) -> str:
    """Why it is not readable, in two or three words."""
    if not path.exists():
        return "is not there"
    return "cannot be read by this account" if not os.access(path, os.R_OK) else "is not one"


def _wrong(what: str, remedy: str) -> Finding:
    return failed("cohorts", what, remedy, "data manager")
