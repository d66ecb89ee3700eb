"""What a job may be: one test per promise of polyclinic.flare.lint."""

import json
import os
import stat
import sys
import types
import zipfile
from dataclasses import dataclass

import pytest

from polyclinic.errors import StudyError
from polyclinic.flare import lint

SERVER, CLIENT = lint.SERVER, lint.CLIENT


@dataclass(frozen=True)
class Half:
    """Stands for an algorithm's class."""

    alpha: float = 0.1

    def __post_init__(self):
        if self.alpha < 0:
            raise StudyError(expected="alpha >= 0", got=str(self.alpha), remedy="raise it")


class Bound:
    """Stands for a class of algorithms that is no half."""

    def __init__(self, alpha=0.1):
        raise AssertionError("was built")


@pytest.fixture(autouse=True)
def _classes(monkeypatch):
    module = types.ModuleType("polyclinic.algorithms.toy")
    module.Half, module.Bound, module.function, module.ZipFile = Half, Bound, print, zipfile.ZipFile
    monkeypatch.setitem(sys.modules, "polyclinic.algorithms.toy", module)
    for kind in (Half, Bound):
        monkeypatch.setattr(kind, "__module__", "polyclinic.algorithms.toy")
    # A toy trains nothing; tests/cli/test_job.py has whole jobs that do not fit together.
    monkeypatch.setattr(lint, "load_job", lambda folder: None)


def half(**args):
    return {"path": "polyclinic.algorithms.toy.Half", "args": args}


def rounds(**args):
    path = "polyclinic.flare.controller.Rounds"
    return {"id": "rounds", "path": path, "args": {"server": half(), "rounds": 5, **args}}


def executor(**args):
    return {"path": "polyclinic.flare.executor.SiteExecutor", "args": {"client": half(), **args}}


def good():
    return {
        "meta.json": {
            "name": "toy_job",
            "min_clients": 2,
            "resource_spec": {},
            "deploy_map": {"app": ["@ALL"]},
            "scope": "polyclinic",
        },
        SERVER: {"format_version": 2, "workflows": [rounds()]},
        CLIENT: {
            "format_version": 2,
            "executors": [{"tasks": ["train"], "executor": executor()}],
            "task_data_filters": [],
        },
        "app/config/study.json": {
            "name": "toy",
            "task": {"label": "y", "classes": ["no", "yes"]},
            "modalities": {"cnv": {"kind": "vector"}},
        },
        "app/config/panels.json": {"cnv": {"features": ["g1", "g2"]}},
    }


def written(folder, files):
    job = folder / "toy_job"
    for name, content in files.items():
        path = job / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return job


def faults(folder, files):
    return " | ".join(f"{f.where} {f.what}" for f in lint.check_job(written(folder, files)))


def test_a_good_job_has_no_fault(tmp_path):
    assert lint.check_job(written(tmp_path, good())) == []


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("app/custom/polyclinic/evil.py", "code in a job"),
        ("app/config/model.pt", "a file no job of ours has"),
        ("app2/config/config_fed_server.json", "a file no job of ours has"),
        ("app/config/__init__.py", "a file no job of ours has"),
    ],
)
def test_no_file_passes_but_the_five_of_a_job(tmp_path, file, told):
    assert told in faults(tmp_path, {**good(), file: "x"})


def test_a_job_that_was_submitted_from_its_folder_is_still_a_good_one(tmp_path):
    signed = {
        f"{folder}{name}": "x"
        for folder in ("", "app/", "app/config/")
        for name in (".__nvfl_sig.json", ".__nvfl_submitter.crt")
    }
    assert lint.check_job(written(tmp_path, {**good(), **signed})) == []


@pytest.mark.parametrize("missing", lint.REQUIRED)
def test_a_missing_file_is_named(tmp_path, missing):
    files = good()
    del files[missing]
    assert f"{missing} missing" in faults(tmp_path, files)


def test_a_link_is_refused(tmp_path):
    job = written(tmp_path, good())
    (job / "app/config/panels.json").unlink()
    os.symlink("/etc/hostname", job / "app/config/panels.json")
    assert any(f.what == "a link" for f in lint.check_job(job))


def test_a_folder_of_many_or_large_files_is_refused(tmp_path):
    job = written(tmp_path, good())
    (job / "app/config/panels.json").write_text(" " * (lint.MAX_BYTES + 1))
    assert any("MiB" in f.what for f in lint.check_job(job))
    for i in range(lint.MAX_FILES + 1):
        (job / f"{i}.json").write_text("{}")
    assert any("more than" in f.what for f in lint.check_job(job))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "other"}, "name is not the folder's"),
        ({"min_clients": 1}, "min_clients below 2"),
        ({"min_clients": True}, "min_clients below 2"),
        ({"min_clients": "3"}, "min_clients below 2"),
        ({"deploy_map": {"app": ["hosp-a"]}}, "deploy_map"),
        ({"mandatory_clients": ["hosp-a"]}, "names sites"),
        ({"resource_spec": {"hosp-a": {"num_of_gpus": 1}}}, "names sites"),
        ({"scope": "public"}, "scope"),
        ({"launcher_spec": {}}, "unknown key"),
    ],
)
def test_meta_says_one_app_for_all_and_a_quorum_of_two(tmp_path, change, told):
    files = good()
    files["meta.json"] |= change
    assert told in faults(tmp_path, files)


@pytest.mark.parametrize("name", ["task_data_filters", "task_result_filters"])
@pytest.mark.parametrize("file", [SERVER, CLIENT])
def test_a_job_brings_no_filter(tmp_path, name, file):
    files = good()
    files[file][name] = [{"tasks": ["train"], "filters": [executor()]}]
    assert "a filter in a job" in faults(tmp_path, files)


def test_a14_no_pickle_switch_passes_at_any_depth(tmp_path):
    files = good()
    files[SERVER]["workflows"][0]["args"]["server"]["args"]["load_weights_only"] = False
    assert "weights from a pickle" in faults(tmp_path, files)


@pytest.mark.parametrize(
    "value", ["/data/x", "~/x", "../x", "a/../../x", "C:\\x", "\\\\host\\x", "file:///x"]
)
def test_no_path_passes(tmp_path, value):
    files = good()
    files[CLIENT]["note"] = {"deep": [value]}
    assert "a path" in faults(tmp_path, files)


@pytest.mark.parametrize("value", ["site-1", "hosp-a", "Hospital_B"])
def test_no_site_name_passes(tmp_path, value):
    files = good()
    files[SERVER]["targets"] = [value]
    assert "the site name" in faults(tmp_path, files)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"path": "os.system", "args": {}}, "not allow-listed"),
        ({"path": "polyclinic.data.cohort.Cohort"}, "not allow-listed"),
        ({"path": "polyclinic.algorithmsevil.X"}, "not allow-listed"),
        ({"path": ["os.system"]}, "not allow-listed"),
        ({"path": "polyclinic.algorithms.toy.Nothing"}, "there is no"),
        ({"path": "polyclinic.algorithms.nothing.Half"}, "there is no"),
        ({"path": "polyclinic.algorithms.toy.function"}, "not a class"),
        ({"path": "polyclinic.algorithms.toy.ZipFile"}, "not a class"),
        ({"path": "polyclinic.algorithms.toy.Bound"}, "not a class of settings"),
        ({"path": "polyclinic.flare.admission.ZipFile"}, "not allow-listed"),
        ({"path": "polyclinic.flare.admission.KitStorage"}, "not allow-listed"),
        ({"path": "polyclinic.algorithms.toy.Half", "args": [1]}, "not an object"),
        ({"path": "polyclinic.algorithms.toy.Half", "args": {"alfa": 1}}, "alfa"),
        ({"path": "polyclinic.algorithms.toy.Half", "args": {"alpha": -1}}, "alpha >= 0"),
    ],
)
def test_every_class_is_allow_listed_and_takes_its_arguments(tmp_path, spec, told):
    files = good()
    files[SERVER]["workflows"][0]["args"]["server"] = spec
    assert told in faults(tmp_path, files)


def test_a_server_that_does_the_anchor_step_itself_names_the_half_it_does_it_with(tmp_path):
    own = {**half(alpha=0.2), "config_type": "dict"}
    files = good()
    files[SERVER]["workflows"] = [rounds(anchor="server", anchor_client=own)]
    assert faults(tmp_path, files) == ""
    for wrong, told in (
        ({**own, "path": "os.system"}, "not allow-listed"),
        ({**own, "args": {"alpha": -1}}, "alpha >= 0"),
    ):
        files[SERVER]["workflows"] = [rounds(anchor="server", anchor_client=wrong)]
        assert told in faults(tmp_path, files)


def test_looking_at_a_job_opens_and_makes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    precious = tmp_path / "precious.txt"
    precious.write_text("a private key")
    zipping = {"file": str(precious.name), "mode": "w"}
    for path, args in (
        ("polyclinic.flare.admission.ZipFile", zipping),
        ("polyclinic.algorithms.toy.ZipFile", zipping),
        ("polyclinic.flare.admission.KitStorage", {"folder": "made"}),
        ("polyclinic.flare.admission.GuardedJobManager", {"folder": "made"}),
    ):
        files = good()
        files[CLIENT]["components"] = [{"id": "x", "path": path, "args": args}]
        files[SERVER]["workflows"][0]["args"]["server"] = {"path": path, "args": args}
        assert faults(tmp_path, files).count("not allow-listed") == (1 if "toy" in path else 2)
    assert precious.read_text() == "a private key"
    assert {p.name for p in tmp_path.iterdir()} == {"precious.txt", "toy_job"}


def test_no_half_is_built_while_anything_else_is_wrong(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(Half, "__post_init__", lambda self: built.append(self))
    assert lint.check_job(written(tmp_path, good())) == []
    assert len(built) == 2
    files = good()
    files["meta.json"]["scope"] = "public"
    assert "scope" in faults(tmp_path, files)
    assert len(built) == 2


@pytest.mark.parametrize(
    "value", ["{$HOME}", "{SITE_NAME}", "${secret:x}", "{@a:b=c}", "$HOME", "}"]
)
@pytest.mark.parametrize("file", [SERVER, CLIENT])
def test_no_text_passes_that_flare_would_replace(tmp_path, file, value):
    for change in ({"note": ["a " + value]}, {value: 1}):
        told = faults(tmp_path, {**good(), file: good()[file] | change})
        assert "a text with '{'" in told
        assert "HOME" not in told


@pytest.mark.parametrize("key", ["class_path", "name"])
def test_a_class_is_named_by_path_only(tmp_path, key):
    files = good()
    files[SERVER]["components"] = [{"id": "x", key: "polyclinic.flare.admission.KitStorage"}]
    assert f"the key '{key}'" in faults(tmp_path, files)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"min_sites": 1}, "min_sites below 2"),
        ({"min_sites": 0}, "min_sites below 2"),
        ({"min_sites": True}, "min_sites below 2"),
        ({"min_sites": "2"}, "min_sites below 2"),
        ({"min_sites": 2.5}, "min_sites below 2"),
        ({"min_sites": 3}, "min_sites above min_clients"),
    ],
)
def test_a_round_averages_two_sites_at_least_and_no_more_than_must_be_there(tmp_path, args, told):
    files = good()
    files[SERVER]["workflows"] = [rounds(**args)]
    assert told in faults(tmp_path, files)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"a": NaN}', "NaN"),
        ("{", "not plain JSON"),
        ("[" * 100_000, "not plain JSON"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested too deeply"),
        ("[]", "format_version"),
        ('"text"', "format_version"),
        ("{}", "format_version"),
        ('{"format_version": 2}', "names no component"),
    ],
)
def test_only_plain_json_is_read(tmp_path, text, told):
    assert told in faults(tmp_path, {**good(), SERVER: text})


def test_a_study_that_does_not_hold_is_a_fault(tmp_path):
    files = good()
    del files["app/config/panels.json"]
    assert "app/config/study.json" in faults(tmp_path, files)


def zipped(folder, entries, name="job.zip"):
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return path


def job_entries():
    return [(f"toy_job/{n}", json.dumps(c)) for n, c in good().items()]


def test_a_zipped_good_job_has_no_fault(tmp_path):
    assert lint.check_archive(zipped(tmp_path, job_entries())) == []


def link():
    info = zipfile.ZipInfo("toy_job/app/config/panels.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([("../evil.json", "{}")], "leads out"),
        ([("toy_job/../../evil.json", "{}")], "leads out"),
        ([("/etc/evil.json", "{}")], "leads out"),
        ([("C:\\evil.json", "{}")], "leads out"),
        ([(link(), "/etc/passwd")], "a link"),
        ([("toy_job/meta.json", "{}" + " " * (4 << 20))], "would unpack"),
        ([(f"toy_job/{i}.json", "") for i in range(100_000)], "entries"),
        ([("a.json", "{}")], "not one job folder"),
        ([("a/meta.json", "{}"), ("b/meta.json", "{}")], "not one job folder"),
    ],
)
def test_an_archive_that_could_do_harm_is_not_unpacked(tmp_path, entries, told):
    found = lint.check_archive(zipped(tmp_path, entries))
    assert told in " | ".join(f.what for f in found)
    assert {p.name for p in tmp_path.iterdir()} == {"job.zip"}


def test_a_bomb_of_a_thousand_to_one_is_refused_by_its_directory(tmp_path):
    bomb = zipped(tmp_path, [("toy_job/meta.json", b"\0" * (12 << 20))])
    assert bomb.stat().st_size * 900 < 12 << 20
    assert "would unpack" in lint.check_archive(bomb)[0].what


def test_what_is_no_zip_is_refused(tmp_path):
    path = tmp_path / "job.zip"
    path.write_bytes(b"PK\x03\x04 not really")
    assert "no readable zip" in lint.check_archive(path)[0].what
