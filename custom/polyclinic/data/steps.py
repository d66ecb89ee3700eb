"""Measurements become steps: one number per patient, step and feature."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyclinic.data.clock import Ints
from polyclinic.data.field import Doubles
from polyclinic.data.series_table import Observations
from polyclinic.data.timeline import MS_OF_HOUR, SeriesRecipe


@dataclass(frozen=True)
class Steps:
    """What was measured, sorted by patient, step and feature.

    Attributes:
        values: (n,) float32.
        cells: step * F + feature; (n,) int64.
        counts: values of each patient; (P,) int64.
        inside: measurements within the hours, before several became one.
    """

    values: npt.NDArray[np.float32]
    cells: Ints
    counts: Ints
    inside: int


def binned(found: Observations, recipe: SeriesRecipe, patients: int) -> Steps:
    """One value per patient, step and feature that was measured within the hours.

    The order of rows does not matter: of several last ones at one moment the largest counts.
    """
    steps, width = recipe.steps, len(found.fields)
    step = found.times // round(recipe.step_hours * MS_OF_HOUR)
    inside = (step >= 0) & (step < steps)
    key = ((found.patients * steps + step) * width + found.places)[inside]
    times, values = found.times[inside], found.values[inside].astype(np.float64)
    order = np.lexsort((values, times, key))
    key, values = key[order], values[order]
    begins = np.flatnonzero(np.diff(key, prepend=-1))
    key = key[begins]
    ways = [recipe.aggregate_of(f.feature) for f in found.fields]
    merged = _merged(values, begins, key % width, ways)
    counts = np.bincount(key // (steps * width), minlength=patients)
    return Steps(merged.astype(np.float32), key % (steps * width), counts, int(inside.sum()))


def _merged(
    values: Doubles,
    begins: Ints,
    places: Ints,
    ways: Sequence[str],
) -> Doubles:
    """One number for each run of values, as the recipe says for its feature."""
    if not len(begins):
        return values
    ends = np.append(begins[1:], len(values))
    made = {
        "last": values[ends - 1],
        "mean": np.add.reduceat(values, begins) / (ends - begins),
        "max": np.maximum.reduceat(values, begins),
        "min": np.minimum.reduceat(values, begins),
    }
    order = list(made)
    chosen = np.array([order.index(w) for w in ways])[places]
    return np.choose(chosen, [made[w] for w in order])
