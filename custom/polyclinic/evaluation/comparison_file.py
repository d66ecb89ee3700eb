"""The file that ``polyclinic compare --json`` writes, read back as if a stranger had sent it."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from polyclinic.errors import StudyError
from polyclinic.study import read_json

# A metric names a set of sequences, and so may be long.
Text = Annotated[str, Field(min_length=1, max_length=512)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
Repeat = Annotated[int, Field(ge=0, le=1_000_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Score(_Strict):
    method: Text
    site: Text
    repeat: Repeat
    test: Text
    metric: Text
    value: Finite


class _Ended(_Strict):
    method: Text
    repeat: Repeat
    seconds: Finite


class _Failed(_Strict):
    method: Text
    repeat: Repeat
    reason: Annotated[str, Field(max_length=10_000)]


class _Settings(_Strict):
    study: Text
    repeats: Repeat
    methods: dict[Text, dict[str, Any]]


class _Difference(_Strict):
    interval: Annotated[list[Finite], Field(min_length=2, max_length=2)]


class _Figures(_Strict):
    mean: Finite
    minus: dict[Text, _Difference]


class _File(_Strict):
    records: list[_Score]
    seconds: list[_Ended]
    failed: list[_Failed] = []
    settings: _Settings
    aside: list[Text] = []
    summary: dict[Text, dict[Text, dict[Text, _Figures]]] = {}

    @model_validator(mode="after")
    def _one_story(self) -> "_File":
        ended = [(r.method, r.repeat) for r in self.seconds]
        failed = [(r.method, r.repeat) for r in self.failed]
        cells = [(r.method, r.repeat, r.site, r.test, r.metric) for r in self.records]
        if any(len(set(part)) != len(part) for part in (ended + failed, cells)):
            raise ValueError("a run or a score that stands twice")
        if {(m, r) for m, r, *_ in cells} - set(ended):
            raise ValueError("scores of a run that did not end")
        if {m for m, _ in ended + failed} - self.settings.methods.keys():
            raise ValueError("a method without settings")
        return self


def read_comparison(path: Path) -> dict[str, Any]:
    """What a comparison found, ended or not.

    Raises:
        StudyError: no such file, or one that ``polyclinic compare`` did not write.
    """
    try:
        content = read_json(path)
        _File.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"][:3]) or "its parts"
        got = f"a fault in {place} ({error.error_count()} in all)"
    except (OSError, ValueError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else type(error).__name__
    else:
        found: dict[str, Any] = content  # type: ignore[assignment]
        return found
    raise StudyError(
        expected="a file that 'polyclinic compare --json' wrote",
        got=got,
        remedy="name another, or make it again",
    )
