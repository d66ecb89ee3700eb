"""A hospital of small scans with masks on disk, for the tests of segmentation data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.data.cohort import Cohort, open_cohort
from polyclinic.settings import SiteSettings
from polyclinic.study import Study, parse_study
from volumes import head, write

SEQUENCES = ("flair", "t1", "t1ce")
SHAPE = (10, 12, 8)
RECIPE: Mapping[str, Any] = {"size": [8, 10, 8], "spacing_mm": None, "box": False}


def marked(shape: Sequence[int] = SHAPE, codes: Sequence[int] = (0, 2, 4)) -> np.ndarray:
    """A mask: a box of the second class with the third in its middle."""
    mask = np.full(tuple(shape), codes[0], dtype=np.uint8)
    mask[2:7, 3:9, 2:6] = codes[1]
    mask[4, 5:7, 3:5] = codes[2]
    return mask


def a_study(**changes: Any) -> Study:
    """Three sequences; classes none, oedema and core, in a mask 0, 2 and 4."""
    recipe = {**RECIPE, **changes.pop("recipe", {})}
    mask = {
        "classes": ["none", "oedema", "core"],
        "values": [0, 2, 4],
        "regions": {"wt": ["oedema", "core"], "tc": ["core"]},
    }
    return parse_study(
        {
            "name": "tiny",
            "task": {"mask": mask | changes.pop("mask", {})},
            "modalities": {s: {"kind": "volume", "features": [s]} for s in SEQUENCES},
            "scans": {"recipe": recipe},
            "split": {"test": 0.25, "validation": 0.0},
            **changes,
        }
    )


@dataclass
class Ward:
    """Files of one site under ``root`` and the settings that declare them.

    Attributes:
        held: sequences that the site declares; ``withheld`` ones for evaluation only.
    """

    root: Path
    site: str = "site-1"
    held: tuple[str, ...] = SEQUENCES
    withheld: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=lambda: {"folder": "mri"})
    mask: dict[str, Any] | None = field(default_factory=lambda: {"folder": "mri"})
    options: dict[str, Any] = field(default_factory=lambda: {"max_loss_fraction": 1.0})
    cohort: dict[str, Any] = field(default_factory=dict)

    def ids(self, count: int) -> list[str]:
        """Write a manifest of so many patients; their ids."""
        ids = [f"p{i:02d}" for i in range(count)]
        (self.root / "manifest.csv").write_text("\n".join(["patient_id", *ids]) + "\n")
        return ids

    def path(self, patient: str, what: str) -> Path:
        """Where a sequence or the mask of a patient lies."""
        return self.root / "mri" / patient / f"{patient}_{what}.nii.gz"

    def patients(self, count: int, without: Sequence[tuple[int, str]] = ()) -> list[str]:
        """Write scans of so many patients with masks, but for those left out; their ids."""
        self.root.mkdir(parents=True, exist_ok=True)
        ids = self.ids(count)
        for i, p in enumerate(ids):
            for j, s in enumerate(SEQUENCES):
                if (i, s) not in without:
                    write(self.path(p, s), head(10 * i + j, SHAPE))
            if (i, "seg") not in without:
                write(self.path(p, "seg"), marked())
        return ids

    def settings(self) -> SiteSettings:
        """What the site declares."""
        modalities = {s: {"kind": "volume", **self.source} for s in self.held}
        modalities |= {
            s: {"kind": "volume", **self.source, "evaluation_only": True} for s in self.withheld
        }
        cohort = {"root": str(self.root), "modalities": modalities, **self.cohort}
        return SiteSettings.model_validate(
            {
                "site": self.site,
                "storage": str(self.root / "state"),
                "cache": str(self.root / "cache"),
                "minimum_cell": 1,
                "cohorts": {"tiny": cohort | ({"mask": self.mask} if self.mask else {})},
                **self.options,
            }
        )

    def open(self, study: Study | None = None) -> Cohort:
        """The cohort."""
        return open_cohort(self.settings(), study or a_study())


def z_scored(voxels: np.ndarray, *, nonzero: bool = True) -> np.ndarray:
    """What normalising leaves of a volume."""
    values = voxels.astype(np.float64)
    inside = values[values != 0] if nonzero else values
    scored = (values - inside.mean()) / inside.std()
    return np.where(values != 0, scored, 0.0) if nonzero else scored


def turned(path: Path, codes: str) -> None:
    """Store a file again in another order of its axes, such as LPI."""
    import nibabel as nib

    image = nib.load(path)
    orientation = nib.orientations.axcodes2ornt(tuple(codes))
    start = nib.orientations.io_orientation(image.affine)
    again = image.as_reoriented(nib.orientations.ornt_transform(start, orientation))
    nib.save(nib.Nifti1Image(np.asarray(again.dataobj), again.affine), path)
