"""The hours of a series: how many steps, when they start, and what a time cell says."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from polyclinic.data.cell import number
from polyclinic.data.recipe import Recipe, parse_recipe
from polyclinic.errors import StudyError
from polyclinic.study import Modality
from polyclinic.task import Word

Aggregate = Literal["last", "mean", "max", "min"]

MAX_STEPS = 2048
# Numbers of one patient as a batch holds them; a job chooses them, a hospital pays for them.
MAX_CELLS = 1 << 18
MS_OF_HOUR = 3_600_000
HOURS_OF_DAY = 24
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST_HOUR = 1e9


class SeriesRecipe(Recipe):
    """How measurements become steps.

    Attributes:
        hours: that are looked at, from the start.
        step_hours: length of one step; ``hours`` is a multiple of it.
        aggregate: what stands for several measurements of one step: for all features, or by
            feature, ``last`` where none is named.
        start: column with the moment from which hours count, in the table or the manifest; "" is
            each patient's first row. A column ``hour`` counts from the start already.
    """

    hours: Annotated[float, Field(gt=0, le=24 * 366)] = 48.0
    step_hours: Annotated[float, Field(ge=1 / 60, le=24 * 366)] = 1.0
    aggregate: Aggregate | dict[Word, Aggregate] = "last"
    start: str = Field(default="", max_length=256)

    @model_validator(mode="after")
    def _whole(self) -> "SeriesRecipe":
        steps = self.hours / self.step_hours
        if abs(steps - round(steps)) > 1e-6 or round(steps) < 1:
            raise ValueError("hours is a multiple of step_hours")
        if round(steps) > MAX_STEPS:
            raise ValueError(f"at most {MAX_STEPS} steps")
        return self

    @property
    def steps(self) -> int:
        """T."""
        return round(self.hours / self.step_hours)

    def aggregate_of(self, feature: str) -> Aggregate:
        """What stands for several measurements of a feature in one step."""
        if isinstance(self.aggregate, dict):
            return self.aggregate.get(feature, "last")
        return self.aggregate

    @property
    def daily(self) -> bool:
        """Whether a date without a time is precise enough."""
        return self.step_hours % HOURS_OF_DAY == 0


def recipe_of(name: str, modality: Modality) -> SeriesRecipe:
    """The recipe of a series.

    Raises:
        StudyError: a setting is unknown or out of range, or a patient would take too much memory.
    """
    recipe = parse_recipe(SeriesRecipe, name, modality.recipe)
    if isinstance(recipe.aggregate, dict) and set(recipe.aggregate) - set(modality.features):
        raise StudyError(
            expected=f"aggregates of features of modality '{name}'",
            got="another name",
            remedy="correct 'aggregate' in the recipe",
        )
    if recipe.steps * modality.width > MAX_CELLS:
        raise StudyError(
            expected=f"at most {MAX_CELLS} numbers (steps × features) per patient of '{name}'",
            got=f"{recipe.steps} × {modality.width}",
            remedy="take fewer or longer steps, or a smaller panel",
        )
    return recipe


def moment(cell: str, daily: bool) -> tuple[int | None, bool]:
    """Milliseconds since 1970 of an ISO 8601 time, and whether it names its zone.

    ``None`` for everything else: 03/04/2026 is March in one country and April in another. A date
    without a time counts as its midnight where steps are days, else it is no time either.
    """
    if not daily and len(cell) <= len("2026-01-01"):
        return None, False
    try:
        found = datetime.fromisoformat(cell)
    except ValueError:
        return None, False
    zoned = found.tzinfo is not None
    try:
        passed = (found if zoned else found.replace(tzinfo=UTC)) - _EPOCH
    except OverflowError:
        return None, False
    return round(passed.total_seconds() * 1000), zoned


def hour(cell: str, decimal_comma: bool) -> int | None:
    """Milliseconds of a number of hours; ``None`` where there is none."""
    value, cause = number(cell, decimal_comma)
    return None if cause or not abs(value) < _LARGEST_HOUR else round(value * MS_OF_HOUR)
