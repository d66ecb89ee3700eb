"""Invented hours on a ward: a long table, one measurement a row."""

import numpy as np
import pandas as pd

HOURS = 24
CONCEPTS = {"heart_rate": 80.0, "lactate": 1.6, "temperature": 37.2}
SPREADS = {"heart_rate": 8.0, "lactate": 0.4, "temperature": 0.4}
SLOPES = {"heart_rate": 0.5, "lactate": 0.05, "temperature": 0.0}
UNITS = {"heart_rate": "/min", "lactate": "mmol/L", "temperature": "Cel"}


def hours_on_the_ward(pseudonym: str, trait: float, rng: np.random.Generator) -> pd.DataFrame:
    """Measurements of one patient; ``trait`` is how heart rate and lactate rise over the day."""
    rows = []
    for concept, usual in CONCEPTS.items():
        start = usual + SPREADS[concept] * rng.standard_normal()
        for hour in range(HOURS):
            if rng.random() < (0.5 if concept == "heart_rate" else 0.85):
                continue  # laboratory values are rare, and nobody writes down every pulse
            drift = SLOPES[concept] * trait * hour
            value = start + drift + 0.4 * SPREADS[concept] * rng.standard_normal()
            rows.append((pseudonym, hour, concept, round(value, 2), UNITS[concept]))
    columns = ["person_id", "hour", "measurement_concept_id", "value_as_number", "unit"]
    return pd.DataFrame(rows, columns=columns)
