"""The anchor step on the server's own data: off by default, and guarded like a site's."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flare.anchoring import (
    HELD,
    Hospital,
    everywhere,
    expected,
    last,
    stepped,
    steps,
)
from flare.kit import COMMAND
from flare.ward import Ward, of_kind
from polyclinic.errors import StudyError
from polyclinic.flare import child
from polyclinic.flare.convert import ANCHOR

CLIENT = {"path": "polyclinic.algorithms.stepping.Client", "args": {}}
PANELS = {"cnv": ["g1", "g2"], "wsi": ["w1"]}
VECTORS = {
    "name": "demo",
    "task": {"label": "y", "classes": ["a", "b"]},
    "modalities": {m: {"kind": "vector", "features": f} for m, f in PANELS.items()},
    "split": {"source": "manifest"},
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ward]:
    """A server with a cohort of its own, and four sites of which none offers itself."""
    monkeypatch.setattr(child, "COMMAND", COMMAND)

    def make(anchor: bool = True, patients: int = 24) -> Ward:
        sites = {s: Hospital(s, study=VECTORS) for s in HELD}
        ward = Ward(tmp_path, sites)
        config = tmp_path / "job-1" / "app_server" / "config"
        (config / "study.json").write_text(json.dumps(VECTORS))
        _write_cohort(tmp_path, anchor, patients)
        return ward

    return make


def _write_cohort(folder: Path, anchor: bool, patients: int) -> None:
    data = folder / "data"
    data.mkdir()
    ids = [f"p{i:02d}" for i in range(patients)]
    rows = ["patient_id,y,split", *(f"{p},{'ab'[i % 2]},train" for i, p in enumerate(ids))]
    (data / "manifest.csv").write_text("\n".join(rows))
    for name, features in PANELS.items():
        lines = [f"{p},{','.join(str(i) for _ in features)}" for i, p in enumerate(ids)]
        (data / f"{name}.csv").write_text("\n".join([f"patient_id,{','.join(features)}", *lines]))
    sources = {m: {"kind": "vector", "table": f"{m}.csv"} for m in PANELS}
    cohort = {"root": "../data", "modalities": sources, "anchor": anchor}
    facts: Mapping[str, Any] = {
        "site": "coordinator",
        "storage": "../state",
        "cohorts": {"demo": cohort},
    }
    (folder / "local" / "polyclinic.yaml").write_text(json.dumps(facts))


def _rounds(rounds: int, **client: Any) -> Any:
    spec = CLIENT | {"args": client}
    return stepped(rounds, anchor="server", anchor_client=spec, round_deadline=20.0)


def test_the_server_does_the_step_and_every_site_trains(own: Callable[..., Ward]) -> None:
    ward = own()
    records = ward.run(_rounds(2))
    assert [(s["status"], s["site"]) for s in steps(records)] == [("absorbed", "coordinator")] * 3
    assert [r["heard"] for r in of_kind(records, "round")] == [list(HELD)] * 2
    assert not any(task == ANCHOR for site in ward.sites.values() for task, _ in site.asked)
    assert everywhere(last(ward), "enc.", expected([True] * 3))
    assert ward.panics == []


def test_what_the_servers_process_answers_passes_the_guard(own: Callable[..., Ward]) -> None:
    ward = own()
    records = ward.run(_rounds(1, leak="an anchor that is not known"))
    assert [s["reason"] for s in steps(records)] == ["contract"] * 2
    assert everywhere(last(ward), "enc.", 1.0)


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"anchor": False}, "failed_study"), ({"patients": 10}, "failed_site")],
    ids=["no offer", "too few patients"],
)
def test_a_server_whose_data_cannot_do_the_step_does_not_begin(
    own: Callable[..., Ward], changes: dict[str, Any], status: str
) -> None:
    ward = own(**changes)
    records = ward.run(_rounds(1))
    assert of_kind(records, "round") == []
    assert of_kind(records, "end")[0]["status"] == status


@pytest.mark.parametrize(
    "args",
    [
        {"anchor": "server"},
        {"anchor": "elsewhere"},
        {"anchor_client": CLIENT},
        {"anchor": "server", "anchor_client": {"path": "os.system", "args": {}}},
    ],
    ids=["no client", "nowhere", "a client and a site", "another class"],
)
def test_arguments_that_do_not_fit_are_refused_when_the_job_is_built(args: dict[str, Any]) -> None:
    with pytest.raises(StudyError):
        stepped(1, **args)
