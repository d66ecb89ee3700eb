"""What a hospital's data manager writes into a kit's ``local/polyclinic.yaml``."""

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
