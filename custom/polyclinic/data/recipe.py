"""Checked recipes: how a kind turns files into arrays, as the study fixes it for every site.

Whoever writes a job chooses what a hospital allocates, so a kind's recipe limits every size.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from polyclinic.errors import StudyError

Chosen = TypeVar("Chosen", bound="Recipe")
Model = TypeVar("Model", bound=BaseModel)


class Recipe(BaseModel):
    """What every kind's recipe is built on: no unknown setting, nothing that changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse_recipe(kind: type[Chosen], name: str, payload: dict[str, Any]) -> Chosen:
    """The recipe of one modality.

    Raises:
        StudyError: naming the first setting that is unknown or out of range.
    """
    return checked(kind, payload, "recipe setting", name)


def checked(kind: type[Model], payload: dict[str, Any], what: str, name: str) -> Model:
    """The checked settings of one modality, a recipe's or an encoder's.

    Raises:
        StudyError: naming the first setting that is unknown or out of range.
    """
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise StudyError(
            expected=f"a valid {what} '{where}' of modality '{name}'",
            got=f"{first['msg']} ({error.error_count()} problem(s) in all)",
            remedy=f"use the settings {', '.join(sorted(kind.model_fields))}",
        ) from None
