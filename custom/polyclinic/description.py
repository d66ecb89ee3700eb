"""A YAML file that a person writes, read into a strict model; its faults in words for that person.

A message names the file, a line or a field, never what stands in it: some of these files belong to
a hospital, and messages may leave.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from polyclinic.errors import SiteError

Described = TypeVar("Described", bound=BaseModel)
_REMEDIES = {
    "no such file": "give the path of the file",
    "a folder": "give the path of the file in it",
}


def read_description(path: Path, model: type[Described], *, what: str, owner: str) -> Described:
    """The file's content as the model.

    Args:
        what: the file in a message, such as ``polyclinic.yaml``.
        owner: whose job it is to mend it.

    Raises:
        SiteError: no file, not YAML (with line and column), or a wrong field (with its name).
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        expected, got, remedy = _field_fault(error, model, what)
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        expected, got = f"{what} as readable YAML", _file_fault(error)
        remedy = _REMEDIES.get(got, "mend the file")
    raise SiteError(expected=expected, got=got, remedy=remedy, owner=owner) from None


def _file_fault(error: Exception) -> str:
    """Why a file is not YAML at all; the parser's own words may quote the file, so they are not."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    if isinstance(error, RecursionError):
        return "brackets that are nested too deeply"
    if isinstance(error, OSError):
        return (error.strerror or "an error of the disk").lower()
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"a fault at line {mark.line + 1}, column {mark.column + 1}"
    return "bytes that are no plain text"


def _field_fault(error: ValidationError, model: type[BaseModel], what: str) -> tuple[str, str, str]:
    """Expected, got and remedy for the first wrong field, with the number of the others."""
    faults = error.errors()
    first = faults[0]
    field = ".".join(str(p) for p in first["loc"])
    more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
    if first["type"] == "missing":
        return f"'{field}' in {what}", f"nothing{more}", "add it"
    if first["type"] == "extra_forbidden":
        *place, key = first["loc"]
        known = _fields(model, place)
        near = get_close_matches(str(key), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        return f"known fields only in {what}", f"'{field}'{more}", f"rename or remove it: {hint}"
    if not field and first["type"] == "model_type":
        return f"fields with values in {what}", "none", "write it as its example shows"
    got = first["msg"].removeprefix("Value error, ")
    expected = f"a valid '{field}' in {what}" if field else f"fields of {what} that fit together"
    return expected, f"{got}{more}", "mend it in the file"


def _fields(model: type[BaseModel], place: list[int | str]) -> list[str]:
    """Names of the fields that exist at a place inside the model."""
    found: Any = model
    for step in place:
        if isinstance(found, type) and issubclass(found, BaseModel):
            found = found.model_fields[str(step)].annotation
        else:
            # dict[name, inner] or tuple[inner, ...]
            found = next(a for a in reversed(get_args(found)) if a is not Ellipsis)
    return sorted(found.model_fields)
