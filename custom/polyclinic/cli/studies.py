"""The site that a command names, and the study that ``--study`` names or that lies beside it."""

from collections.abc import Iterable
from pathlib import Path

from polyclinic.errors import StudyError
from polyclinic.settings import SETTINGS_FILE, SiteSettings, load_settings
from polyclinic.study import Study, load_study


def given_site(site: Path) -> SiteSettings:
    """The settings in the folder of a site, or of the file itself.

    Raises:
        StudyError: a folder of several sites.
        SiteError: no settings there, or not valid.
    """
    path = site / SETTINGS_FILE if site.is_dir() else site
    inside = sorted(p.parent.name for p in site.glob(f"*/{SETTINGS_FILE}"))
    if inside and not path.exists():
        raise StudyError(
            expected="the folder of one site",
            got=f"one that holds {len(inside)} of them",
            remedy=f"name one, as {inside[0]} in it",
        )
    return load_settings(path)


def given_study(given: Path) -> Study:
    """The study of ``study.json``, of its folder, or of a job.

    Raises:
        StudyError: none there, or not valid.
    """
    places = (given / "app" / "config", given) if given.is_dir() else (given.parent,)
    found = next((p for p in places if (p / "study.json").is_file()), None)
    # A file of another name must not be taken for the study.json that may lie beside it.
    if found is None or not (given.is_dir() or given.name == "study.json"):
        raise StudyError(
            expected="study.json, its folder or a job after --study",
            got="a file of another name" if given.is_file() else "no study.json there",
            remedy="correct the path; a study's file is called study.json",
        )
    return load_study(found)


def study_beside(folders: Iterable[Path]) -> Study:
    """The study of the first of ``folders`` or their parents that has one.

    Raises:
        StudyError: none has.
    """
    for folder in [p for f in folders for p in (f, f.resolve().parent)]:
        if (folder / "study.json").is_file():
            return load_study(folder)
    raise StudyError(
        expected="study.json in a site folder or beside it", got="none", remedy="give --study"
    )
