"""A small consortium of unlike hospitals, drawn from a seed: for the tutorial, tests and POC.

Two hidden traits decide the outcome; tissue shows the first, copy numbers the second, and the
metadata a little of both, so no modality alone suffices. Nothing here describes a real patient.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

Floats = npt.NDArray[np.float64]
Source = dict[str, str | float]

GENES = tuple(f"gene_{i:02d}" for i in range(1, 41))
FIELDS = ("age_years", "is_female", "grade", "marker_a", "marker_b", "pack_years")
DIM = 32
EXTRACTOR = "generated-32"
CLASSES = ("indolent", "aggressive")

# What is broken on purpose, by site and reason code of polyclinic.data.quarantine.
BROKEN: dict[str, dict[str, int]] = {
    "site-1": {},
    "site-2": {"not_finite": 1, "unreadable": 1},
    "site-3": {"bad_label": 2, "no_patient_id": 1, "ragged_row": 1},
}


@dataclass(frozen=True)
class Drawn:
    """The patients of one site.

    Attributes:
        traits: (P, 2), what decides the outcome and no site sees.
        labels: (P,) class index.
    """

    ids: list[str]
    traits: Floats
    labels: npt.NDArray[np.int64]


def _draw(site: int, patients: int, rng: np.random.Generator) -> Drawn:
    """Patients whose outcome needs both traits: their sum, with a little noise."""
    traits = rng.standard_normal((patients, 2))
    score = traits.sum(axis=1) + 0.3 * rng.standard_normal(patients)
    labels = (score > 0.3).astype(np.int64)
    return Drawn([f"S{site}-{i:04d}" for i in range(patients)], traits, labels)


def _cnv(drawn: Drawn, site: int, rng: np.random.Generator, loading: Floats) -> pd.DataFrame:
    """Copy numbers (P, 40) that carry the second trait; each site's platform has its own offset."""
    noise = rng.standard_normal((len(drawn.ids), len(GENES)))
    values = np.outer(drawn.traits[:, 1], loading) + noise + 0.3 * site
    return pd.DataFrame(values.astype(np.float32), columns=list(GENES), index=drawn.ids)


def _metadata(drawn: Drawn, rng: np.random.Generator) -> pd.DataFrame:
    """Six fields; the two markers show both traits faintly, the others nothing or little."""
    n = len(drawn.ids)
    frame = pd.DataFrame(
        {
            "age_years": np.round(rng.normal(61, 11, n).clip(19, 89)),
            "is_female": rng.integers(0, 2, n).astype(float),
            "grade": (1 + (drawn.traits[:, 0] > -0.5) + (drawn.traits[:, 0] > 0.8)).astype(float),
            "marker_a": np.round(drawn.traits[:, 0] + 1.5 * rng.standard_normal(n), 3),
            "marker_b": np.round(drawn.traits[:, 1] + 1.5 * rng.standard_normal(n), 3),
            "pack_years": np.round(rng.exponential(12, n), 1),
        },
        index=drawn.ids,
    )
    return frame[list(FIELDS)]


def _bags(drawn: Drawn, rng: np.random.Generator, direction: Floats) -> list[Floats]:
    """Bags of 8 to 24 instances (n, 32), of which a third show the first trait."""
    bags = []
    for trait in drawn.traits[:, 0]:
        bag = rng.standard_normal((int(rng.integers(8, 25)), DIM))
        bag[: len(bag) // 3] += 3.0 * trait * direction
        bags.append(rng.permutation(bag))
    return bags


def _write_bag(path: Path, bag: Floats, layout: str) -> None:
    """One slide's features in the TRIDENT or STAMP layout."""
    coords = np.stack([np.arange(len(bag)) * 256, np.zeros(len(bag))], axis=1)
    with h5py.File(path, "w") as file:
        if layout == "stamp":
            file["feats"], file["coords"] = bag.astype(np.float32), coords
            file.attrs.update(extractor=EXTRACTOR, unit="um", tile_size_um=256.0)
        else:
            file["features"], file["coords"] = bag.astype(np.float32)[None], coords
            file["features"].attrs["encoder"] = EXTRACTOR


def _write_bags(folder: Path, ids: Sequence[str], bags: Sequence[Floats], layout: str) -> None:
    """The bags of some patients with their slide table; every tenth patient has two slides."""
    place = folder / f"features_{EXTRACTOR}" if layout == "trident" else folder
    place.mkdir(parents=True)
    slides = []
    for i, (pseudonym, bag) in enumerate(zip(ids, bags, strict=True)):
        halves = np.array_split(bag, 2) if i % 10 == 0 else [bag]
        for j, half in enumerate(halves):
            slide = f"slide-{i:04d}{'ab'[j]}"
            _write_bag(place / f"{slide}.h5", half, layout)
            slides.append((pseudonym, slide))
    frame = pd.DataFrame(slides, columns=["patient_id", "slide_id"])
    frame.to_csv(folder / "slides.csv", index=False)


def _write_manifest(folder: Path, drawn: Drawn) -> pd.DataFrame:
    """The manifest of a site."""
    frame = pd.DataFrame({"patient_id": drawn.ids, "outcome": [CLASSES[c] for c in drawn.labels]})
    frame.to_csv(folder / "manifest.csv", index=False)
    return frame


def _write_settings(folder: Path, site: str, modalities: dict[str, Source]) -> None:
    """The site's ``polyclinic.yaml``; a tiny cohort may lose a larger share than a real one."""
    settings = {
        "site": site,
        "storage": "state",
        "max_loss_fraction": 0.05,
        "cohorts": {"demo": {"root": ".", "modalities": modalities}},
    }
    (folder / "polyclinic.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


WSI: Source = {"kind": "bag", "folder": "bags", "extractor": EXTRACTOR, "mpp": 0.5}
CNV: Source = {"kind": "vector", "table": "cnv.parquet", "units": "log2 ratio"}
METADATA: Source = {"kind": "vector", "table": "metadata.parquet"}


def _site_1(folder: Path, drawn: Drawn, rng: np.random.Generator, direction: Floats) -> None:
    """Tissue and metadata; the grade was never recorded here."""
    _write_manifest(folder, drawn)
    _write_bags(folder / "bags", drawn.ids, _bags(drawn, rng, direction), "trident")
    metadata = _metadata(drawn, rng).drop(columns="grade")
    metadata.rename_axis("patient_id").to_parquet(folder / "metadata.parquet")
    _write_settings(folder, "site-1", {"wsi": {**WSI, "layout": "trident"}, "metadata": METADATA})


def _site_2(
    folder: Path, drawn: Drawn, rng: np.random.Generator, direction: Floats, loading: Floats
) -> None:
    """Everything, but a fifth lacks tissue and another fifth copy numbers; two bags are broken."""
    _write_manifest(folder, drawn)
    bags, cnv, fifth = (
        _bags(drawn, rng, direction),
        _cnv(drawn, 2, rng, loading),
        len(drawn.ids) // 5,
    )
    _write_bags(folder / "bags", drawn.ids[fifth:], bags[fifth:], "stamp")
    cnv.drop(index=drawn.ids[-fifth:]).rename_axis("patient_id").to_parquet(folder / "cnv.parquet")
    metadata = _metadata(drawn, rng).rename_axis("patient_id")
    metadata.to_parquet(folder / "metadata.parquet")
    broken = folder / "bags" / "slide-0001a.h5"
    broken.write_bytes(broken.read_bytes()[:200])
    hole = np.full((8, DIM), np.nan)
    _write_bag(folder / "bags" / "slide-0002a.h5", hole, "stamp")
    modalities = {"wsi": {**WSI, "layout": "stamp"}, "cnv": CNV, "metadata": METADATA}
    _write_settings(folder, "site-2", modalities)


def _site_3(folder: Path, drawn: Drawn, rng: np.random.Generator, loading: Floats) -> None:
    """Copy numbers and metadata with gaps, in the tables of a spreadsheet; some rows are broken."""
    manifest = _write_manifest(folder, drawn)
    manifest.loc[[3, 4], "outcome"] = ["unknown", ""]
    manifest.loc[5, "patient_id"] = ""
    manifest.to_csv(folder / "manifest.csv", index=False)
    cnv = _cnv(drawn, 3, rng, loading).rename_axis("patient_id")
    cnv.mask(rng.random(cnv.shape) < 0.05).to_parquet(folder / "cnv.parquet")
    metadata = _metadata(drawn, rng)
    metadata = metadata.mask(rng.random(metadata.shape) < 0.15).rename_axis("patient_id")
    text = metadata.to_csv(sep=";", decimal=",", lineterminator="\r\n")
    lines = text.split("\r\n")
    lines[7] += ";a comment someone typed"
    (folder / "metadata.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    modalities = {"cnv": CNV, "metadata": {**METADATA, "table": "metadata.csv"}}
    _write_settings(folder, "site-3", modalities)


def write_study(folder: Path) -> None:
    """Write ``study.json`` and ``panels.json`` of the study ``demo``."""
    study = {
        "name": "demo",
        "task": {"label": "outcome", "classes": list(CLASSES)},
        "embedding": 32,
        # Enough validation patients of each class to tell a score by round (minimum_cell).
        "split": {"source": "random", "test": 0.25, "validation": 0.25},
        "modalities": {
            # Small encoders: the tutorial is to take seconds on a laptop.
            "wsi": {
                "kind": "bag",
                "dim": DIM,
                "extractor": EXTRACTOR,
                "encoder": {"instance": [64], "attention": 32, "hidden": [64]},
            },
            "cnv": {"kind": "vector", "units": "log2 ratio", "encoder": {"hidden": [64]}},
            "metadata": {"kind": "vector", "encoder": {"hidden": [32]}},
        },
    }
    panels = {"cnv": {"features": list(GENES)}, "metadata": {"features": list(FIELDS)}}
    (folder / "study.json").write_text(json.dumps(study, indent=2) + "\n")
    (folder / "panels.json").write_text(json.dumps(panels) + "\n")


def generate_consortium(
    folder: Path, seed: int = 0, patients: Sequence[int] = (160, 200, 180)
) -> list[Path]:
    """The folders of three sites, with the study they share beside them in ``folder``.

    Args:
        patients: of each site, at least 20.
    """
    if len(patients) != 3 or min(patients) < 20:
        raise ValueError(f"Expected three sites of at least 20 patients, got {tuple(patients)}.")
    world = np.random.default_rng([seed, 0])
    direction = world.standard_normal(DIM)
    direction /= np.linalg.norm(direction)
    loading = world.normal(0.0, 0.45, len(GENES))
    folders = [folder / f"site-{i}" for i in (1, 2, 3)]
    for place in folders:
        place.mkdir(parents=True)
    streams = [np.random.default_rng([seed, i]) for i in (1, 2, 3)]
    drawn = [_draw(i + 1, n, streams[i]) for i, n in enumerate(patients)]
    _site_1(folders[0], drawn[0], streams[0], direction)
    _site_2(folders[1], drawn[1], streams[1], direction, loading)
    _site_3(folders[2], drawn[2], streams[2], loading)
    write_study(folder)
    return folders
