"""A consortium with all five kinds of data, as files lie in hospitals: DICOM, PNG, NIfTI, SVS, CSV.

Three hidden traits decide the outcome: films and slides show the first, scans and copy numbers the
second, the hours on a ward the third, and what a header says of a patient a little of the second.
Hospitals hold different modalities, and most patients lack some. Slides are images here: their
features are made by ``polyclinic data import slides``, as at a hospital.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from polyclinic.data.generated.agreement import CLASSES, GENES, STUDY, study
from polyclinic.data.generated.film import Card, film_pixels, write_dicom, write_png
from polyclinic.data.generated.histology import MPP, tissue, write_slide
from polyclinic.data.generated.scan import SEQUENCES, scan_voxels, write_scan
from polyclinic.data.generated.vitals import hours_on_the_ward

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Source = Mapping[str, Any]

# ``polyclinic data import slides`` makes the features with this trunk, and calls it so.
TRUNK = "random:0"
EXTRACTOR = "resnet34-layer3-random0"
SLIDES = "slides"
FEATURES = "wsi/20x_224px_0px_overlap"

# What is broken on purpose, by site and reason code of polyclinic.data.quarantine.
BROKEN: dict[str, dict[str, int]] = {
    "site-1": {"burned_in": 1, "unreadable": 1},
    "site-2": {"bad_affine": 1, "not_finite": 1},
    "site-3": {"impossible_value": 1, "constant_image": 1},
}


@dataclass(frozen=True)
class Ward:
    """The patients of one site.

    Attributes:
        traits: (P, 3), what decides the outcome and no site sees.
        labels: (P,) class index.
        cards: what a film's header says.
    """

    name: str
    ids: tuple[str, ...]
    traits: Floats
    labels: npt.NDArray[np.int64]
    cards: tuple[Card, ...]
    rng: np.random.Generator

    def some(self, share: float) -> Flags:
        """A random share of the patients; (P,) bool."""
        return self.rng.random(len(self.ids)) < share


def _ward(number: int, patients: int, seed: int) -> Ward:
    """A site's patients, drawn from its own stream."""
    rng = np.random.default_rng([seed, 5, number])
    traits = rng.standard_normal((patients, 3))
    score = traits.sum(axis=1) + 0.3 * rng.standard_normal(patients)
    ages = np.round(60 + 9 * traits[:, 1] + 9 * rng.standard_normal(patients)).clip(18, 97)
    ids = tuple(f"S{number}-{i:04d}" for i in range(patients))
    cards = tuple(
        Card(
            p,
            f"{int(a):03d}Y",
            "FM"[int(rng.random() < 0.5)],
            ("PA", "AP")[int(rng.random() < 0.3)],
        )
        for p, a in zip(ids, ages, strict=True)
    )
    return Ward(f"site-{number}", ids, traits, (score > 0).astype(np.int64), cards, rng)


def _films(folder: Path, ward: Ward, there: Flags, styles: Sequence[str]) -> None:
    """Films of some patients: DICOM in these styles in turn, or PNG where the style says so."""
    place, rows = folder / "cxr", []
    place.mkdir(parents=True)
    for i in np.flatnonzero(there):
        style = styles[int(i) % len(styles)]
        pixels = film_pixels(float(ward.traits[i, 0]), ward.rng)
        name = f"film-{i:04d}.{'png' if style == 'png' else 'dcm'}"
        if style == "png":
            write_png(place / name, pixels)
        else:
            number = int(ward.name[-1]) * 100_000 + int(i)
            write_dicom(place / name, pixels, ward.cards[i], number, style=style)
        rows.append((ward.ids[i], name))
    frame = pd.DataFrame(rows, columns=["patient_id", "file"])
    frame.to_csv(place / "files.csv", index=False)


def _scans(folder: Path, ward: Ward, there: Flags, sequences: Callable[[int], Flags]) -> None:
    """Scans of some patients, a folder each; ``sequences`` says which of them a patient has."""
    for i in np.flatnonzero(there):
        place = folder / "mri" / ward.ids[i]
        place.mkdir(parents=True)
        voxels = scan_voxels(float(ward.traits[i, 1]), ward.rng)
        for name, has in zip(SEQUENCES, sequences(int(i)), strict=True):
            if has:
                write_scan(place / f"{name}.nii.gz", voxels[name], flipped=bool(i % 2))


def _slides(folder: Path, ward: Ward, there: Flags) -> None:
    """One slide each of some patients, named for the patient."""
    place = folder / SLIDES
    place.mkdir(parents=True)
    for i in np.flatnonzero(there):
        image = tissue(float(ward.traits[i, 0]), ward.rng)
        write_slide(place / f"{ward.ids[i]}.svs", image)


def _vitals(folder: Path, ward: Ward, there: Flags) -> None:
    """The hours on a ward of some patients, one long table."""
    parts = [
        hours_on_the_ward(ward.ids[i], float(ward.traits[i, 2]), ward.rng)
        for i in np.flatnonzero(there)
    ]
    pd.concat(parts).to_csv(folder / "vitals.csv", index=False)


def _copy_numbers(folder: Path, ward: Ward, there: Flags, loading: Floats) -> None:
    """A table of copy numbers that show the second trait."""
    noise = ward.rng.standard_normal((len(ward.ids), len(GENES)))
    values = np.round(np.outer(ward.traits[:, 1], loading) + noise, 3)
    frame = pd.DataFrame(values, columns=list(GENES), index=pd.Index(ward.ids, name="patient_id"))
    frame[there].to_csv(folder / "cnv.csv")


def _cards(folder: Path, ward: Ward, there: Flags) -> None:
    """A table of what headers say elsewhere, with gaps; one age is impossible."""
    frame = pd.DataFrame(
        {
            "patient_id": ward.ids,
            "PatientAge": [c.age for c in ward.cards],
            "PatientSex": [c.sex for c in ward.cards],
            "ViewPosition": [c.view for c in ward.cards],
        }
    )
    frame.loc[ward.some(0.2), "PatientAge"] = ""
    frame.loc[~ward.some(0.8), "PatientSex"] = ""
    first = int(np.flatnonzero(there)[0])
    frame.loc[first, "PatientAge"] = "430Y"
    frame[there].to_csv(folder / "metadata.csv", index=False)


CXR: Source = {"kind": "image", "folder": "cxr"}
MRI: Source = {"kind": "volume", "folder": "mri"}
CNV: Source = {"kind": "vector", "table": "cnv.csv", "units": "log2 ratio"}
WSI: Source = {
    "kind": "bag",
    "folder": FEATURES,
    "layout": "trident",
    "extractor": EXTRACTOR,
    "mpp": MPP,
}
VITALS: Source = {"kind": "series", "table": "vitals.csv", "layout": "omop"}


def _site_1(folder: Path, ward: Ward) -> dict[str, Source]:
    """A chest clinic: films with what their headers say, and the ward's hours."""
    films = ward.some(0.95)
    _films(folder, ward, films, ("plain", "inverted", "rle"))
    _vitals(folder, ward, ward.some(0.8))
    first, second = (int(i) for i in np.flatnonzero(films)[:2])
    pixels = film_pixels(0.0, ward.rng)
    place = folder / "cxr"
    write_dicom(place / f"film-{first:04d}.dcm", pixels, ward.cards[first], 1, style="burned")
    cut = place / f"film-{second:04d}.dcm"
    cut.write_bytes(cut.read_bytes()[:900])
    header: Source = {"kind": "vector", "folder": "cxr"}
    return {"cxr": CXR, "metadata": header, "vitals": VITALS}


def _site_2(folder: Path, ward: Ward, loading: Floats) -> dict[str, Source]:
    """A tumour centre: scans, slides and copy numbers."""
    scans = ward.some(0.9)
    _scans(folder, ward, scans, lambda i: np.array([True, i % 5 != 0]))
    _slides(folder, ward, ward.some(0.45))
    _copy_numbers(folder, ward, ward.some(0.8), loading)
    first, second = (ward.ids[i] for i in np.flatnonzero(scans)[:2])
    voxels = scan_voxels(0.0, ward.rng)["t1"]
    voxels[3:6] = np.nan
    write_scan(folder / "mri" / first / "t1.nii.gz", voxels)
    _write_flat(folder / "mri" / second / "t1.nii.gz")
    return {"mri": MRI, "wsi": WSI, "cnv": CNV}


def _write_flat(path: Path) -> None:
    """A scan whose orientation matrix is singular."""
    import nibabel

    image = nibabel.load(path)
    image.set_sform(np.diag([5.0, 5.0, 0.0, 1.0]), code=1)
    image.set_qform(None, code=0)
    whole = nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    nibabel.save(whole, path)


def _site_3(folder: Path, ward: Ward, loading: Floats) -> dict[str, Source]:
    """A general hospital: a little of everything, of each patient something else."""
    films = ward.some(0.7)
    _films(folder, ward, films, ("png", "plain"))
    _scans(folder, ward, ward.some(0.4), lambda i: np.array([i % 4 != 0, True]))
    _slides(folder, ward, ward.some(0.3))
    _vitals(folder, ward, ward.some(0.6))
    _copy_numbers(folder, ward, ward.some(0.6), loading)
    _cards(folder, ward, ward.some(0.9))
    blank = next(int(i) for i in np.flatnonzero(films) if i % 2 == 0)
    write_png(folder / "cxr" / f"film-{blank:04d}.png", np.zeros((64, 64)))
    metadata: Source = {"kind": "vector", "table": "metadata.csv"}
    return {
        "cxr": CXR,
        "mri": MRI,
        "wsi": WSI,
        "vitals": VITALS,
        "cnv": CNV,
        "metadata": metadata,
    }


def _finish(folder: Path, ward: Ward, sources: Mapping[str, Source]) -> None:
    """The manifest and ``polyclinic.yaml``, which lets a tiny cohort lose a larger share."""
    frame = pd.DataFrame({"patient_id": ward.ids, "outcome": [CLASSES[c] for c in ward.labels]})
    frame.to_csv(folder / "manifest.csv", index=False)
    settings = {
        "site": ward.name,
        "storage": "state",
        "max_loss_fraction": 0.05,
        "cohorts": {STUDY: {"root": ".", "modalities": {m: dict(s) for m, s in sources.items()}}},
    }
    (folder / "polyclinic.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def generate_five_kinds(
    folder: Path,
    seed: int = 0,
    patients: Sequence[int] = (150, 150, 170),
) -> list[Path]:
    """The folders of three sites, with the study they share beside them in ``folder``.

    Args:
        patients: of each site, at least 20.
    """
    if len(patients) != 3 or min(patients) < 20:
        raise ValueError(f"Expected three sites of at least 20 patients, got {tuple(patients)}.")
    loading = np.random.default_rng([seed, 5]).normal(0.0, 0.45, len(GENES))
    folders = [folder / f"site-{i}" for i in (1, 2, 3)]
    wards = [_ward(i + 1, n, seed) for i, n in enumerate(patients)]
    for place in folders:
        place.mkdir(parents=True)
    _finish(folders[0], wards[0], _site_1(folders[0], wards[0]))
    _finish(folders[1], wards[1], _site_2(folders[1], wards[1], loading))
    _finish(folders[2], wards[2], _site_3(folders[2], wards[2], loading))
    (folder / "study.json").write_text(json.dumps(study(EXTRACTOR), indent=2) + "\n")
    return folders
