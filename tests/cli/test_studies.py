from pathlib import Path

import pytest

from polyclinic.cli.studies import given_site, given_study, study_beside
from polyclinic.errors import SiteError, StudyError

JOB = Path(__file__).parents[2] / "jobs" / "fedmm_demo"


@pytest.mark.parametrize("place", ["", "app/config", "app/config/study.json"])
def test_a_study_is_found_in_a_job_its_folder_and_by_its_file(place: str) -> None:
    assert given_study(JOB / place).name == "demo"


@pytest.mark.parametrize("name", ["panels.json", "none.json", "none"])
def test_no_other_file_stands_for_the_study_beside_it(name: str) -> None:
    with pytest.raises(StudyError, match="correct the path"):
        given_study(JOB / "app" / "config" / name)


def test_without_a_study_beside_the_site_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="give --study"):
        study_beside([tmp_path])


def test_a_site_is_named_by_its_folder_or_its_file(consortium: Path) -> None:
    folder = consortium / "site-2"
    assert given_site(folder).site == given_site(folder / "polyclinic.yaml").site == "site-2"


def test_a_folder_of_sites_is_no_site_and_says_what_to_name(consortium: Path) -> None:
    with pytest.raises(StudyError, match=r"got one that holds 3 of them; name one, as site-1"):
        given_site(consortium)


def test_where_no_site_is_the_file_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"polyclinic\.yaml"):
        given_site(tmp_path)
