"""What site folders of scans have in common."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from polyclinic.settings import load_settings

REPOSITORY = Path(__file__).parents[2]
PLANS = ("lgg_sites5", "brats_brats2018", "brats_brats2020")


@pytest.fixture
def scans(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "poc"))
    sys.modules.pop("scans", None)
    import scans

    return scans


def plan_of(scans, name):
    text = (REPOSITORY / "poc" / "plans" / f"{name}.json").read_text()
    return scans.ScanPlan.model_validate_json(text)


@pytest.mark.parametrize("name", PLANS)
def test_a_shipped_plan_has_a_valid_study_and_an_anchor_with_everything(
    scans, name, tmp_path
) -> None:
    from polyclinic.data.scan_recipe import recipe_of
    from polyclinic.models.scan.settings import parse_network

    plan = plan_of(scans, name)
    study = scans.write_study(plan, tmp_path)
    recipe_of(study)
    parse_network(study.scans.network)
    (anchor,) = (site for site in plan.sites.values() if site.anchor)
    assert set(anchor.modalities) == set(study.modalities)


def test_who_is_drawn_depends_on_the_seed_and_the_purpose_not_on_the_order(scans) -> None:
    ids = [f"p{i}" for i in range(20)]
    drawn = scans.drawn(ids, 0, "a")
    assert sorted(drawn) == sorted(ids)
    assert drawn == scans.drawn(reversed(ids), 0, "a")
    assert drawn != scans.drawn(ids, 1, "a")
    assert drawn != scans.drawn(ids, 0, "b")


def test_a_plan_whose_site_holds_an_unknown_sequence_is_refused(scans, tmp_path) -> None:
    from polyclinic.errors import DataError

    given = plan_of(scans, "lgg_sites5").model_dump()
    given["sites"]["du"]["modalities"] = ["t2"]
    with pytest.raises(DataError, match=r"got \['t2'\]"):
        scans.write_study(scans.ScanPlan.model_validate(given), tmp_path)


def test_a_plan_has_a_study_or_names_a_job_never_both(scans) -> None:
    given = plan_of(scans, "lgg_sites5").model_dump()
    for wrong in ({"job": ""}, {"study": {"name": "x"}}):
        with pytest.raises(ValidationError, match="names the job whose study it is"):
            scans.ScanPlan.model_validate(given | wrong)


def test_what_a_site_lacks_by_plan_is_declared_for_evaluation_only(scans, tmp_path) -> None:
    plan = plan_of(scans, "lgg_sites5")
    study = scans.write_study(plan, tmp_path)
    scans.write_site(study, "ht", plan.sites["ht"], ["b", "a"], tmp_path / "ht")
    source = load_settings(tmp_path / "ht" / "polyclinic.yaml").cohort("lgg")
    assert source.held == ("flair", "post")
    assert set(source.modalities) == {"pre", "flair", "post"}
    assert (source.mask.folder, source.mask.name, source.anchor) == ("scans", "seg", False)
    assert (tmp_path / "ht" / "manifest.csv").read_text() == "patient_id\na\nb\n"
