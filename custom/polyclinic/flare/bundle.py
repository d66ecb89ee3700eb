"""A job with the package inside, for sites that allow code in jobs (FLARE's BYOC).

FLARE appends a job's ``custom/`` to the module path, so an installed polyclinic of another version
wins silently over the one in the job. A bundle therefore carries the fingerprint of its own code,
and both ends of a run refuse to start when the code that was imported is not that code.
"""

import hashlib
import json
import shutil
from pathlib import Path

import polyclinic
from polyclinic.errors import StudyError

FINGERPRINT = "polyclinic_code.json"
_SOURCES = ("*.py", "*.html", "py.typed")


def code_fingerprint(package: Path | None = None) -> str:
    """SHA-256 over names and contents of a package's source files, in name order.

    Args:
        package: the folder; by default of the polyclinic that is imported.
    """
    folder = package or Path(polyclinic.__file__).parent
    total = hashlib.sha256()
    for path in sorted(_sources(folder), key=lambda p: p.relative_to(folder).as_posix()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def write_bundle(job: Path, out: Path) -> Path:
    """The job's folder under ``out``, with ``app/custom/polyclinic`` and the fingerprint inside.

    Raises:
        StudyError: there is already such a folder.
    """
    target = out / job.name
    if target.exists():
        raise StudyError(
            expected="no folder of the job's name in the output folder",
            got="one",
            remedy="remove it, or name another folder",
        )
    package = Path(polyclinic.__file__).parent
    shutil.copytree(job, target)
    for path in _sources(package):
        copy = target / "app" / "custom" / "polyclinic" / path.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    facts = {"version": polyclinic.__version__, "sha256": code_fingerprint(package)}
    text = json.dumps(facts, indent=2) + "\n"
    (target / "app" / "config" / FINGERPRINT).write_text(text, encoding="utf-8")
    return target


def check_bundle(config: Path) -> None:
    """Pass unless a bundled job runs on other code than it carries; a plain job always passes.

    Args:
        config: the job's ``app/config`` folder in the run's workspace.

    Raises:
        StudyError: another polyclinic is installed here and won.
    """
    path = config / FINGERPRINT
    if not path.exists():
        return
    try:
        wanted = json.loads(path.read_text(encoding="utf-8"))
        version, sha256 = str(wanted["version"]), str(wanted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        version = sha256 = "unreadable"
    if sha256 != code_fingerprint():
        raise StudyError(
            expected=f"the bundled polyclinic {version} to be the one that runs",
            got=f"an installed polyclinic {polyclinic.__version__} of other content",
            remedy="uninstall it here, or submit the job without its bundle",
            owner="site IT",
        )


def _sources(package: Path) -> list[Path]:
    found = [path for pattern in _SOURCES for path in package.rglob(pattern)]
    return sorted(path for path in found if "__pycache__" not in path.parts)
