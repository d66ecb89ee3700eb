"""What the sites of the five-kind consortium agree on: the content of its ``study.json``."""

from typing import Any

from polyclinic.data.generated.scan import SEQUENCES
from polyclinic.data.generated.vitals import CONCEPTS, HOURS, UNITS

STUDY = "five_kinds"
CLASSES = ("indolent", "aggressive")
GENES = tuple(f"gene_{i:02d}" for i in range(1, 25))


def study(extractor: str) -> dict[str, Any]:
    """The content of ``study.json``."""
    age = {"column": "PatientAge", "reads": "age", "low": 0, "high": 120}
    female = {"column": "PatientSex", "reads": "category", "category": "F", "among": ["F", "M"]}
    view = {"column": "ViewPosition", "reads": "category", "category": "AP", "among": ["AP", "PA"]}
    small = {"hidden": [64], "clip": 3.0}
    return {
        "name": STUDY,
        "task": {"label": "outcome", "classes": list(CLASSES)},
        "embedding": 64,
        "split": {"source": "random", "test": 0.25, "validation": 0.25},
        "modalities": {
            "cxr": {
                "kind": "image",
                "recipe": {"size": [64, 64]},
                "encoder": {"network": "compact"},
            },
            "mri": {
                "kind": "volume",
                "features": list(SEQUENCES),
                "recipe": {"size": [24, 24, 20], "spacing_mm": [7.0, 7.0, 7.0]},
                "encoder": {"network": "compact"},
            },
            "wsi": {
                "kind": "bag",
                "dim": 256,
                "extractor": extractor,
                "encoder": {"instance": [64], "attention": 32, "hidden": [64]},
            },
            "vitals": {
                "kind": "series",
                "features": list(CONCEPTS),
                "fields": {c: {"units": UNITS[c]} for c in CONCEPTS},
                "recipe": {"hours": HOURS},
            },
            "cnv": {
                "kind": "vector",
                "units": "log2 ratio",
                "features": list(GENES),
                "encoder": small,
            },
            "metadata": {
                "kind": "vector",
                "features": ["age_years", "is_female", "view_ap"],
                "fields": {"age_years": age, "is_female": female, "view_ap": view},
                "encoder": small,
            },
        },
    }
