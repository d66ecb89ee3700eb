"""A study is data another party wrote: every size has a limit, every wrong shape one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from polyclinic import study
from polyclinic.errors import SiteError, StudyError
from polyclinic.models.settings import parse
from polyclinic.models.vector import VectorSettings
from polyclinic.settings import load_settings
from polyclinic.study import load_study, parse_study

VECTOR = {"kind": "vector", "features": ["a", "b"]}


def payload(**changes: Any) -> dict[str, Any]:
    task = {"label": "outcome", "classes": ["no", "yes"]}
    return {"name": "tiny", "task": task, "modalities": {"v": VECTOR}, **changes}


def one(**changes: Any) -> dict[str, Any]:
    return payload(modalities={"v": {**VECTOR, **changes}})


def task(*classes: str, label: str = "outcome") -> dict[str, Any]:
    return payload(task={"label": label, "classes": list(classes)})


@pytest.mark.parametrize(
    "asked",
    [
        payload(embedding=study.MAX_EMBEDDING + 1),
        payload(embedding=10**30),
        payload(seed=1 << 63),
        payload(modalities={"b": {"kind": "bag", "dim": study.MAX_DIM + 1}}),
        one(features=[f"f{i}" for i in range(study.MAX_FEATURES + 1)]),
        one(features=["a", ""]),
        one(mean=[float("nan"), 0], scale=[1, 1]),
        one(mean=[0, 0], scale=[float("nan"), 1]),
        one(units="u" * 257),
        task(*(f"c{i}" for i in range(study.MAX_CLASSES + 1))),
        task("a", "a"),
        task("a", " "),
        task("\u00e9", "e\u0301"),
        task("a", "b", label=""),
        payload(modalities={f"m{i}": VECTOR for i in range(study.MAX_MODALITIES + 1)}),
    ],
    ids=lambda asked: "",
)
def test_what_a_hospital_would_have_to_allocate_has_a_limit(asked: dict[str, Any]) -> None:
    with pytest.raises(StudyError):
        parse_study(asked)


def test_the_limits_themselves_are_allowed() -> None:
    parse_study(payload(embedding=study.MAX_EMBEDDING, seed=(1 << 63) - 1))
    parse_study(task(*(f"c{i}" for i in range(study.MAX_CLASSES))))
    parse_study(payload(modalities={"b": {"kind": "bag", "dim": study.MAX_DIM}}))


@pytest.mark.parametrize("asked", [{"hidden": [8193]}, {"hidden": [1] * 9}, {"clip": float("inf")}])
def test_an_encoder_of_a_job_is_bounded(asked: dict[str, Any]) -> None:
    with pytest.raises(StudyError):
        parse(VectorSettings, "v", asked)


@pytest.mark.parametrize(
    ("agreed", "panels"),
    [
        ("[" * 200_000, None),
        ("[1]", None),
        ('{"seed": 1' + "0" * 6000 + "}", None),
        (json.dumps(payload(modalities=[1])), '{"v": {"features": ["a"]}}'),
        (json.dumps(payload(modalities={"v": [1]})), '{"v": {"features": ["a"]}}'),
        (json.dumps(payload()), '{"v": [1]}'),
        (json.dumps(payload()), "[1]"),
        (json.dumps(payload()), '{"v": ' * 100_000),
    ],
    ids=["deep", "list", "digits", "list of modalities", "list", "panel", "panels", "deep panels"],
)
def test_a_malformed_file_is_one_sentence(tmp_path: Path, agreed: str, panels: str | None) -> None:
    (tmp_path / "study.json").write_text(agreed)
    if panels is not None:
        (tmp_path / "panels.json").write_text(panels)
    with pytest.raises(StudyError):
        load_study(tmp_path)


def test_a_study_larger_than_allowed_is_not_parsed(tmp_path: Path, monkeypatch) -> None:
    text = json.dumps(payload())
    (tmp_path / "study.json").write_text(text)
    monkeypatch.setattr(study, "MAX_FILE_BYTES", len(text))
    assert load_study(tmp_path).name == "tiny"
    monkeypatch.setattr(study, "MAX_FILE_BYTES", len(text) - 1)
    with pytest.raises(StudyError):
        load_study(tmp_path)


def test_site_settings_nested_too_deeply_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "polyclinic.yaml").write_text("[" * 20_000)
    with pytest.raises(SiteError):
        load_settings(tmp_path / "polyclinic.yaml")
