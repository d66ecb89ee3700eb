"""The public lower-grade gliomas of four hospitals as site folders.

Slices of a patient become volumes in their order. How far apart they are is not known, so that a
voxel is said to be 1 mm long in every direction: distances in millimetres mean nothing here. A
sequence that was never made (its channel in the pictures is FLAIR's) is not written.
"""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from lgg_download import SEQUENCES, Bytes, Gliomas, opened
from polyclinic.cli import output
from polyclinic.errors import DataError
from scans import MASK, ScanPlan, ScanSite, drawn, file_of, write_site, write_study


def members(plan: ScanPlan, people: pd.DataFrame) -> dict[str, list[str]]:
    """Patients of each site of the plan.

    Raises:
        DataError: a hospital has fewer complete patients than the plan takes, or a site has none.
    """
    complete = people[[f"has_{s}" for s in SEQUENCES]].all(axis=1)
    taken: dict[str, list[str]] = {}
    for name, site in plan.sites.items():
        if site.complete:
            mine = people.index[(people["hospital"] == site.hospital) & complete]
            taken[name] = drawn(mine, plan.seed, name)[: site.complete]
    gone = {p for ids in taken.values() for p in ids}
    found = {}
    for name, site in plan.sites.items():
        rest = people.index[(people["hospital"] == site.hospital) & ~people.index.isin(gone)]
        found[name] = sorted(taken.get(name, list(rest)))
        if len(found[name]) < max(1, site.complete):
            raise DataError(
                expected=f"{max(1, site.complete)} patients at site '{name}'",
                got=f"{len(found[name])}",
                remedy="correct the plan, or complete the download",
            )
    return found


def build_lgg(source: Path, plan: ScanPlan, out: Path) -> list[list[object]]:
    """Write the study and every site; one row per site: patients, slices, those of each sequence.

    Raises:
        DataError: the download is not complete, or the plan asks for more than there is.
    """
    download = opened(source)
    people = download.people
    found = members(plan, people)
    study = write_study(plan, out)
    rows: list[list[object]] = []
    with output.progress("writing scans", sum(map(len, found.values()))) as advance:
        for name, site in plan.sites.items():
            for patient in found[name]:
                _write_patient(download, patient, out / name)
                advance(1)
            write_site(study, name, site, found[name], out / name)
            rows.append(_row(name, site, people.loc[found[name]], download.slices))
    return rows


def _row(
    name: str, site: ScanSite, people: pd.DataFrame, names: dict[str, list[str]]
) -> list[object]:
    """What is told of a site."""
    count = sum(len(names[str(p)]) for p in people.index)
    held = [f"{m} {int(people[f'has_{m}'].sum())}" for m in SEQUENCES if m in site.modalities]
    return [name, len(people), count, ", ".join(held), "yes" if site.anchor else ""]


def _write_patient(download: Gliomas, patient: str, folder: Path) -> None:
    """The sequences that were made, and the mask."""
    channels, mask = download.read(patient)
    for channel, sequence in enumerate(SEQUENCES):
        if download.people.loc[patient, f"has_{sequence}"]:
            _write(file_of(folder, patient, sequence), channels[..., channel])
    _write(file_of(folder, patient, MASK), mask)


def _write(path: Path, slices: Bytes) -> None:
    """Slices (K, H, W) as a volume, which are taken to be seen from the feet, the front above."""
    voxels = slices.transpose(2, 1, 0)[::-1, ::-1]  # (I, J, K): to the right, front and head
    image = nibabel.Nifti1Image(np.ascontiguousarray(voxels), np.eye(4))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
