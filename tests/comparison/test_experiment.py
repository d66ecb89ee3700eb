"""Methods compared on sites that know different labels, of films of which a patient has several."""

from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic.algorithms.presets import METHODS
from polyclinic.comparison.experiment import Plan
from polyclinic.comparison.runs import Record, run_plan
from polyclinic.evaluation.summary import summarise
from polyclinic.study import parse_study

STUDY = parse_study(
    {
        "name": "toy",
        "task": {"labels": {"pneumonia": {}, "view_ap": {}}},
        "embedding": 4,
        "split": {"test": 0.4},
        "modalities": {"v": {"kind": "vector", "features": ["a", "b"]}},
    }
)


def write_site(root: Path, name: str, knows_pneumonia: bool) -> Path:
    """Twenty patients of two films; a is pneumonia, b the view."""
    folder = root / name
    folder.mkdir()
    manifest, table = ["patient_id,film_id,pneumonia,view_ap"], ["film_id,a,b"]
    for i in range(20):
        for j in range(2):
            ill, view = i % 2, (i // 2 + j) % 2
            manifest.append(f"p{i},f{i}-{j},{ill if knows_pneumonia else ''},{view}")
            table.append(f"f{i}-{j},{ill + i / 100},{view + j / 100}")
    (folder / "manifest.csv").write_text("\n".join(manifest))
    (folder / "v.csv").write_text("\n".join(table))
    (folder / "polyclinic.yaml").write_text(
        f"site: {name}\ncohorts:\n  toy:\n    record_column: film_id\n"
        "    modalities:\n      v: {kind: vector, table: v.csv}\n"
    )
    return folder


@pytest.fixture
def sites(tmp_path: Path) -> tuple[Path, ...]:
    return write_site(tmp_path, "north", True), write_site(tmp_path, "south", False)


def test_every_label_is_scored_where_it_is_known(sites: tuple[Path, ...]) -> None:
    methods = {m: METHODS[m] for m in ("local", "centralised", "fedavg")}
    records, _ = run_plan(Plan(sites, STUDY, methods, 1, 1, 0, workers=1), lambda runs: None)
    summary = summarise(records)
    for method in methods:
        told = {m: summary["own"][m][method]["sites"] for m in summary["own"]}
        assert set(told["auroc/view_ap"]) == {"north", "south"}
        assert set(told["auroc/pneumonia"]) == {"north"}
        # On all sites' patients the one that never saw a pneumonia is scored as well.
        assert set(summary["pooled"]["auroc/pneumonia"][method]["sites"]) == {"north", "south"}


def test_a_site_alone_learns_nothing_of_the_others(sites: tuple[Path, ...]) -> None:
    # The same network and patients; only who else takes part differs.
    alone = METHODS["fedavg"], replace(METHODS["fedavg"], pool="own")
    methods = dict(zip(("together", "alone"), alone, strict=True))
    both, _ = run_plan(Plan(sites, STUDY, methods, 1, 3, 0, workers=1), lambda runs: None)
    north, _ = run_plan(Plan(sites[:1], STUDY, methods, 1, 3, 0, workers=1), lambda runs: None)

    def told(records: list[Record], method: str) -> dict[str, object]:
        mine = [
            r for r in records if (r["method"], r["site"], r["test"]) == (method, "north", "own")
        ]
        return {r["metric"]: r["value"] for r in mine}

    assert told(both, "alone") == told(north, "alone") == told(north, "together")
    assert told(both, "alone") != told(both, "together")
