"""A consortium that marks tumours in brain scans: four hospitals, of which only two have it all.

The first offers to be the anchor site of FedMEPD. The others hold different sequences, made by
machines of different gain and noise, and keep their files in different layouts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from polyclinic.data.generated.scan import Voxels, write_scan
from polyclinic.data.generated.tumour import (
    SEQUENCES,
    SPACING_MM,
    Classes,
    Scanner,
    brain_with_tumour,
)

STUDY = "tumours"
CLASSES = ("background", "oedema", "core")
# What a mask file says, by class.
VALUES = (0, 2, 1)
MASK = "seg"
HELD: Mapping[str, tuple[str, ...]] = {
    "site-1": SEQUENCES,
    "site-2": SEQUENCES,
    "site-3": ("flair",),
    "site-4": ("t1", "t1ce"),
}
# Of the patients of a site with several, how many lack one.
SHARE_LACKING = 0.1
# What is broken on purpose, by site and reason code of polyclinic.data.quarantine.
BROKEN: dict[str, dict[str, int]] = {
    "site-1": {},
    "site-2": {"not_finite": 1},
    "site-3": {"no_mask": 1},
    "site-4": {"bad_mask": 1},
}

Place = Callable[[str, str], Path]
Source = dict[str, Any]


def study() -> dict[str, Any]:
    """The content of ``study.json``: slices, so that a laptop trains in minutes."""
    return {
        "name": STUDY,
        "task": {
            "mask": {
                "classes": list(CLASSES),
                "values": list(VALUES),
                "regions": {"wt": ["oedema", "core"], "tc": ["core"]},
            }
        },
        "modalities": {s: {"kind": "volume", "features": [s]} for s in SEQUENCES},
        # Enough validation and test patients of each site to tell a score (minimum_cell).
        "split": {"source": "random", "test": 0.3, "validation": 0.42},
        "scans": {
            "recipe": {
                "size": [24, 24, 1],
                "spacing_mm": None,
                "box": False,
                "crops": 4,
                "foreground": 0.5,
            },
            "network": {"dims": 2, "width": 4, "levels": 3, "residual": True},
        },
    }


def _by_name(folder: Path) -> tuple[Place, Source]:
    """``patient/patient_flair.nii.gz`` and ``patient/patient_seg.nii.gz``."""
    return lambda p, s: folder / "mri" / p / f"{p}_{s}.nii.gz", {"folder": "mri"}


def _nnunet(folder: Path) -> tuple[Place, Source]:
    """The layout of nnU-Net, whose channels have numbers and whose masks have a folder."""
    place = folder / "Dataset001_Tumours"
    place.mkdir(parents=True)
    names = {str(i): s.upper() for i, s in enumerate(SEQUENCES)}
    (place / "dataset.json").write_text(json.dumps({"channel_names": names}) + "\n")

    def where(patient: str, what: str) -> Path:
        if what == MASK:
            return place / "labelsTr" / f"{patient}.nii.gz"
        return place / "imagesTr" / f"{patient}_{SEQUENCES.index(what):04d}.nii.gz"

    return where, {"folder": place.name, "layout": "nnunet"}


def _numbered(folder: Path) -> tuple[Place, Source]:
    """Files whose names say nothing, and the table that says whose they are."""
    place = folder / "archive"
    place.mkdir(parents=True)
    table = place / "files.csv"
    table.write_text("patient_id,file,sequence\n")

    def where(patient: str, what: str) -> Path:
        number = len(table.read_text().splitlines())
        with table.open("a") as rows:
            rows.write(f"{patient},{number:05d}.nii.gz,{what}\n")
        return place / f"{number:05d}.nii.gz"

    return where, {"folder": "archive"}


LAYOUTS: Mapping[str, Callable[[Path], tuple[Place, Source]]] = {
    "site-1": _by_name,
    "site-2": _nnunet,
    "site-3": _by_name,
    "site-4": _numbered,
}


def _write_patient(
    number: int, patient: str, site: str, place: Place, drawn: tuple[dict[str, Voxels], Classes]
) -> None:
    """The files of one patient; the second of a site is broken as ``BROKEN`` says."""
    voxels, classes = drawn
    held, flipped = HELD[site], bool(number % 2)
    broken = next(iter(BROKEN[site]), "") if number == 1 else ""
    lacks = held[number % len(held)] if number % round(1 / SHARE_LACKING) == 5 else ""
    for s in held:
        if s == lacks and len(held) > 1 and site != "site-1":
            continue
        if broken == "not_finite" and s == held[0]:
            voxels[s][3:6] = np.nan
        _write(place(patient, s), voxels[s], flipped)
    mask = np.array(VALUES, dtype=np.uint8)[classes]
    if broken == "bad_mask":
        mask[0, 0, 0] = 9
    if broken != "no_mask":
        _write(place(patient, MASK), mask, flipped)


def _write(path: Path, voxels: Any, flipped: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scan(path, voxels, flipped=flipped, spacing_mm=SPACING_MM)


def _write_site(folder: Path, site: str, patients: int, rng: np.random.Generator) -> None:
    """All files of one site; a tiny cohort may lose a larger share than a real one."""
    folder.mkdir(parents=True)
    place, source = LAYOUTS[site](folder)
    scanner = Scanner.draw(rng)
    ids = [f"S{site[-1]}-{i:04d}" for i in range(patients)]
    for number, patient in enumerate(ids):
        _write_patient(number, patient, site, place, brain_with_tumour(scanner, rng))
    (folder / "manifest.csv").write_text("\n".join(["patient_id", *ids]) + "\n")
    modalities = {s: {"kind": "volume", **source} for s in HELD[site]}
    cohort: dict[str, Any] = {"root": ".", "modalities": modalities, "mask": {**source}}
    if site == "site-1":
        cohort["anchor"] = True
    settings = {
        "site": site,
        "storage": "state",
        "max_loss_fraction": 0.05,
        "cohorts": {STUDY: cohort},
    }
    (folder / "polyclinic.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def generate_tumour_consortium(
    folder: Path, seed: int = 0, patients: Sequence[int] = (44, 44, 44, 44)
) -> list[Path]:
    """The folders of four sites, with the study they share beside them in ``folder``.

    Args:
        patients: of each site, at least 20, so that no more than one in twenty is broken.
    """
    if len(patients) != len(HELD) or min(patients) < 20:
        raise ValueError(f"Expected four sites of at least 20 patients, got {tuple(patients)}.")
    folders = []
    for i, (site, count) in enumerate(zip(HELD, patients, strict=True), 1):
        _write_site(folder / site, site, count, np.random.default_rng([seed, 7, i]))
        folders.append(folder / site)
    (folder / "study.json").write_text(json.dumps(study(), indent=2) + "\n")
    return folders
