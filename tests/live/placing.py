"""What a hospital's data manager writes into a kit's ``local/polyclinic.yaml``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml


def place_empty_cohort(kit: Path, root: Path) -> None:
    """A manifest without patients and empty files and folders: enough for a site to start."""
    root.mkdir(parents=True)
    (root / "manifest.csv").write_text("patient_id,label\n")
    path = kit / "local" / "polyclinic.yaml"
    settings = yaml.safe_load(path.read_text())
    for cohort in settings["cohorts"].values():
        cohort["root"] = str(root)
        for source in cohort["modalities"].values():
            if "table" in source:
                (root / source["table"]).touch()
            else:
                (root / source["folder"]).mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(settings))


def install_data(kit: Path, data: Path) -> None:
    """Take over a generated hospital's settings; name, storage and quorum stay the kit's."""
    settings = yaml.safe_load((data / "polyclinic.yaml").read_text())
    for cohort in settings["cohorts"].values():
        cohort["root"] = str((data / cohort.get("root", ".")).resolve())
    path = kit / "local" / "polyclinic.yaml"
    kept = yaml.safe_load(path.read_text())
    own = {k: kept[k] for k in ("site", "storage", "minimum_sites")}
    path.write_text(yaml.safe_dump(settings | own))


def offered_as_anchor(kit: Path, cohort: str) -> None:
    """Say of a cohort that this hospital offers to be its anchor site."""
    path = kit / "local" / "polyclinic.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["cohorts"][cohort]["anchor"] = True
    path.write_text(yaml.safe_dump(settings))


@contextmanager
def added_cohorts(kits: Mapping[Path, Path]) -> Iterator[None]:
    """The cohorts of other generated hospitals for a while, beside those the kits have.

    A tiny cohort of which a study leaves modalities out loses many patients, and may; its
    scores are told from three patients of a class on.

    Args:
        kits: by kit, the hospital's folder.
    """
    before = {kit / "local" / "polyclinic.yaml": data for kit, data in kits.items()}
    texts = {path: path.read_text() for path in before}
    for path, data in before.items():
        given = yaml.safe_load((data / "polyclinic.yaml").read_text())["cohorts"]
        for cohort in given.values():
            cohort["root"] = str((data / cohort.get("root", ".")).resolve())
        settings = yaml.safe_load(texts[path])
        settings["cohorts"] |= given
        path.write_text(yaml.safe_dump(settings | {"max_loss_fraction": 0.4, "minimum_cell": 3}))
    try:
        yield
    finally:
        for path, text in texts.items():
            path.write_text(text)
