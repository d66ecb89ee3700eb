"""A bundled job runs on the code it carries, or not at all."""

import json
import shutil
from pathlib import Path

import pytest

import polyclinic
from polyclinic.errors import StudyError
from polyclinic.flare.bundle import FINGERPRINT, check_bundle, code_fingerprint, write_bundle

PACKAGE = Path(polyclinic.__file__).parent


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "toy_job"
    (folder / "app" / "config").mkdir(parents=True)
    (folder / "meta.json").write_text('{"name": "toy_job"}')
    return folder


def test_a_bundle_carries_the_whole_package_and_no_cache(job, tmp_path):
    inside = write_bundle(job, tmp_path / "out") / "app" / "custom" / "polyclinic"
    assert code_fingerprint(inside) == code_fingerprint(PACKAGE)
    assert not list(inside.rglob("__pycache__"))
    for page in PACKAGE.rglob("*.html"):
        assert (inside / page.relative_to(PACKAGE)).read_bytes() == page.read_bytes()


def test_the_code_it_carries_passes(job, tmp_path):
    check_bundle(write_bundle(job, tmp_path / "out") / "app" / "config")


def test_a_job_without_a_bundle_passes(job):
    check_bundle(job / "app" / "config")


@pytest.mark.parametrize(
    "content", [json.dumps({"version": "0.0.9", "sha256": "0" * 64}), "{}", "not json", "[]"]
)
def test_another_code_than_the_one_it_carries_is_refused(job, content):
    (job / "app" / "config" / FINGERPRINT).write_text(content)
    with pytest.raises(StudyError, match="installed polyclinic"):
        check_bundle(job / "app" / "config")


def test_an_older_bundle_is_not_overwritten(job, tmp_path):
    write_bundle(job, tmp_path / "out")
    with pytest.raises(StudyError, match="no folder of the job's name"):
        write_bundle(job, tmp_path / "out")


@pytest.mark.parametrize("change", ["edit", "add", "rename"])
def test_the_fingerprint_sees_every_change(tmp_path, change):
    copy = tmp_path / "polyclinic"
    shutil.copytree(PACKAGE / "cli", copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_fingerprint(copy)
    if change == "edit":
        (copy / "output.py").write_text((copy / "output.py").read_text() + "\n")
    elif change == "add":
        (copy / "new.py").touch()
    else:
        (copy / "output.py").rename(copy / "output2.py")
    assert code_fingerprint(copy) != before
