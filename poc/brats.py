"""BraTS as the sites of FedMEPD: the published numbers of patients, and who is where by a seed.

SOURCE is the folder as it was unpacked: somewhere below it each patient has a folder of its own
name with ``NAME_flair``, ``_t1``, ``_t1ce``, ``_t2`` and ``_seg``, .nii or .nii.gz (2018 sorts them
into HGG and LGG; one patient of 2020 has a mask of another name). The authors do not redistribute
who was at which site, so patients are shuffled by the plan's seed.

Files become hard links where SOURCE and OUT are on one disk, else copies. Never symbolic links: a
link that leads out of a site's folder is refused when the folder is read.
"""

import os
import shutil
from pathlib import Path

from polyclinic.cli import output
from polyclinic.errors import DataError
from scans import MASK, ScanPlan, drawn, file_of, write_site, write_study

SUFFIXES = (".nii.gz", ".nii")
Files = dict[str, Path]


def suffix_of(path: Path) -> str:
    """``.nii.gz``, ``.nii`` or ""."""
    return next((s for s in SUFFIXES if path.name.endswith(s)), "")


def patients_in(source: Path, sequences: list[str]) -> dict[str, Files]:
    """The files of each patient by sequence, and the mask.

    Raises:
        DataError: there is no patient, one stands twice, or one lacks a file.
    """
    found: dict[str, Files] = {}
    for place, _, names in os.walk(source):
        folder = Path(place)
        files = {name: folder / name for name in sorted(names) if suffix_of(Path(name))}
        mine: Files = {}
        for what in (*sequences, MASK):
            for name in (f"{folder.name}_{what}{s}" for s in SUFFIXES):
                if what not in mine and name in files:
                    mine[what] = files.pop(name)
        if not any(s in mine for s in sequences):
            continue
        if MASK not in mine and len(files) == 1:  # a mask of another name, as one of 2020 has
            mine[MASK] = files.popitem()[1]
        if folder.name in found or len(mine) != len(sequences) + 1:
            raise DataError(
                expected=f"one folder for each patient, with {', '.join(sequences)} and {MASK}",
                got="a second one" if folder.name in found else f"{len(mine)} of these files",
                remedy="unpack the training data once more, into an empty folder",
            )
        found[folder.name] = mine
    if not found:
        raise DataError(
            expected="patients' folders with NAME_flair.nii.gz and so on below the source folder",
            got="none",
            remedy="name the folder into which the training data were unpacked",
        )
    return found


def shares(plan: ScanPlan, patients: int, *, partial: bool) -> dict[str, int]:
    """How many patients each site has: as published, or in proportion where that is allowed.

    Raises:
        DataError: there are more or fewer than published, and ``partial`` was not asked for; or so
            few that a site would have none.
    """
    published = {name: site.patients for name, site in plan.sites.items()}
    total = sum(published.values())
    if patients != total and not partial:
        raise DataError(
            expected=f"{total} patients, as published",
            got=f"{patients}",
            remedy="complete the download, or add --allow-partial, which scales every site",
        )
    exact = {name: count * patients / total for name, count in published.items()}
    given = {name: int(share) for name, share in exact.items()}
    by_rest = sorted(exact, key=lambda name: (given[name] - exact[name], name))
    for name in by_rest[: patients - sum(given.values())]:
        given[name] += 1
    if min(given.values()) < 1:
        raise DataError(
            expected=f"patients for {len(given)} sites",
            got=f"{patients}",
            remedy="name a folder with more patients",
        )
    return given


def build_brats(
    source: Path, plan: ScanPlan, out: Path, *, partial: bool = False
) -> list[list[object]]:
    """Write the study and every site; one row per site: patients, sequences, anchor.

    Raises:
        DataError: the download is not complete, or has another number of patients.
    """
    study = write_study(plan, out)
    found = patients_in(source, list(study.modalities))
    given = shares(plan, len(found), partial=partial)
    order = drawn(found, plan.seed, study.name)
    rows: list[list[object]] = []
    with output.progress("placing scans", len(order)) as advance:
        for name, site in plan.sites.items():
            mine, order = order[: given[name]], order[given[name] :]
            for patient in mine:
                for what, path in found[patient].items():
                    place(path, file_of(out / name, patient, what, suffix_of(path)))
                advance(1)
            write_site(study, name, site, mine, out / name)
            rows.append([name, len(mine), ", ".join(site.modalities), "yes" * site.anchor])
    return rows


def place(path: Path, target: Path) -> None:
    """A hard link to a file, or a copy where that cannot be; what is there is replaced."""
    target.unlink(missing_ok=True)
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)
