"""A tiny hospital that a test shapes as it needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from polyclinic.data.cohort import Cohort, open_cohort
from polyclinic.settings import SiteSettings
from polyclinic.study import Study, parse_study

PANEL = ("a", "b", "c")


@dataclass
class Hospital:
    """Files of one site under ``root`` and the settings that declare them."""

    root: Path
    site: str = "site-1"
    modalities: dict[str, dict[str, Any]] = field(default_factory=dict)
    study_modalities: dict[str, dict[str, Any]] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=lambda: {"test": 0.25})
    task: dict[str, Any] = field(
        default_factory=lambda: {"label": "outcome", "classes": ["no", "yes"]}
    )
    records: str = ""
    options: dict[str, Any] = field(default_factory=lambda: {"max_loss_fraction": 0.5})

    def manifest(
        self, rows: Sequence[Sequence[object]], header: str = "patient_id,outcome"
    ) -> None:
        """Write the manifest."""
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (self.root / "manifest.csv").write_text("\n".join(lines) + "\n")

    def patients(self, count: int) -> list[str]:
        """Write a manifest of patients with alternating labels; their ids."""
        ids = [f"p{i:03d}" for i in range(count)]
        self.manifest([(p, "no" if i % 2 else "yes") for i, p in enumerate(ids)])
        return ids

    def films(self, counts: Sequence[int], header: str = "patient_id,film_id,outcome") -> list[str]:
        """Write a manifest of patients with so many films each, and declare the column of films.

        Patient 0 is ``yes``, the next ``no``, and so on; the films' ids.
        """
        films = [(f"p{i:03d}", f"f{i:03d}-{j}") for i, n in enumerate(counts) for j in range(n)]
        self.manifest([(p, f, "no" if int(p[1:]) % 2 else "yes") for p, f in films], header)
        self.records = "film_id"
        return [f for _, f in films]

    def vector(
        self,
        name: str,
        rows: Mapping[str, Sequence[object]],
        columns: Sequence[str] = PANEL,
        panel: Sequence[str] = PANEL,
        **source: object,
    ) -> None:
        """Write a CSV table and declare it."""
        lines = [",".join([self.records or "patient_id", *columns])]
        lines += [",".join([p, *map(str, values)]) for p, values in rows.items()]
        (self.root / f"{name}.csv").write_text("\n".join(lines) + "\n")
        self.modalities[name] = {"kind": "vector", "table": f"{name}.csv", **source}
        self.study_modalities.setdefault(name, {"kind": "vector", "features": list(panel)})

    def bags(
        self, name: str, bags: Mapping[str, np.ndarray], layout: str = "clam", **source: object
    ) -> Path:
        """Write one H5 file per patient, named for the patient, and declare the folder."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        for pseudonym, bag in bags.items():
            with h5py.File(folder / f"{pseudonym}.h5", "w") as file:
                file["feats" if layout == "stamp" else "features"] = bag
        declared = {"kind": "bag", "folder": name, "layout": layout, **source}
        self.modalities[name] = declared
        width = next(iter(bags.values())).shape[-1] if bags else 2
        self.study_modalities.setdefault(name, {"kind": "bag", "dim": width})
        return folder

    def settings(self) -> SiteSettings:
        """What the site declares."""
        cohort = {"root": str(self.root), "modalities": self.modalities}
        cohort |= {"record_column": self.records} if self.records else {}
        return SiteSettings.model_validate(
            {
                "site": self.site,
                "storage": str(self.root / "state"),
                "cohorts": {"tiny": cohort},
                **self.options,
            }
        )

    def study(self) -> Study:
        """The study the site is held against."""
        return parse_study(
            {
                "name": "tiny",
                "task": self.task,
                "modalities": self.study_modalities,
                "split": self.split,
            }
        )

    def open(self) -> Cohort:
        """The cohort."""
        return open_cohort(self.settings(), self.study())


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    """An empty hospital."""
    return Hospital(tmp_path)


@pytest.fixture
def hospitals(tmp_path: Path) -> Callable[[str], Hospital]:
    """Makes empty hospitals by name."""

    def make(site: str) -> Hospital:
        root = tmp_path / site
        root.mkdir()
        return Hospital(root, site)

    return make
