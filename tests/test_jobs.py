"""A job folder as the science code sees it."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import polyclinic.algorithms
from polyclinic.algorithms import fedmepd, fedmm
from polyclinic.algorithms.presets import METHODS
from polyclinic.errors import StudyError
from polyclinic.jobs import build_half, load_client, load_job

FEDMM = "polyclinic.algorithms.fedmm."


def write_job(
    folder: Path,
    *,
    server: Any = None,
    client: Any = None,
    rounds: Any = 3,
    study: dict[str, Any] | None = None,
) -> Path:
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    server = server or {"path": FEDMM + "Server", "args": {}}
    client = client or {"path": FEDMM + "Client", "args": {"epochs": 2}}
    rounds_args = {"server": server, "rounds": rounds, "min_sites": 2}
    controller = {"path": "polyclinic.flare.controller.Rounds", "args": rounds_args}
    executor = {"path": "polyclinic.flare.executor.SiteExecutor", "args": {"client": client}}
    files = {
        "config_fed_server.json": {"format_version": 2, "workflows": [controller]},
        "config_fed_client.json": {"executors": [{"tasks": ["train"], "executor": executor}]},
        "study.json": study
        or {
            "name": "toy",
            "task": {"label": "y", "classes": ["no", "yes"]},
            "modalities": {"a": {"kind": "vector", "features": ["f"]}},
        },
    }
    for name, payload in files.items():
        (config / name).write_text(json.dumps(payload), encoding="utf-8")
    return folder


def test_a_job_gives_its_study_and_both_halves_with_their_settings(tmp_path: Path) -> None:
    job = load_job(write_job(tmp_path / "fedmm_toy"))

    assert job.name == "fedmm_toy"
    assert job.study.name == "toy"
    assert job.client == fedmm.Client(epochs=2)
    assert job.server == fedmm.Server()
    assert job.rounds == 3
    assert job.rounds_args == {"rounds": 3, "min_sites": 2}


def test_the_client_half_is_built_from_a_jobs_configuration_alone(tmp_path: Path) -> None:
    config = write_job(tmp_path / "toy") / "app" / "config"
    (config / "config_fed_server.json").unlink()
    assert load_client(config) == fedmm.Client(epochs=2)


@pytest.mark.parametrize("client", [{"path": "os.system"}, {"path": FEDMM + "Server"}])
def test_a_configuration_without_a_client_half_is_refused(tmp_path: Path, client: Any) -> None:
    with pytest.raises(StudyError, match="the client half of a job"):
        load_client(write_job(tmp_path / "toy", client=client) / "app" / "config")
    with pytest.raises(StudyError, match="FileNotFoundError"):
        load_client(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "polyclinic.data.cohort.Cohort",
        "polyclinic.algorithms.fedmm.np",
        "polyclinic.algorithms.fedmm.Trained",
        "polyclinic.algorithms.wire.initialise",
        "polyclinic.algorithms.nothing.Client",
        "polyclinic.algorithms.",
        "",
        7,
    ],
)
def test_only_a_class_defined_under_the_algorithms_is_built(path: object) -> None:
    with pytest.raises(StudyError):
        build_half({"path": path, "args": {}})


@pytest.mark.parametrize(
    "spec",
    [
        {"path": "polyclinic.algorithms.hunter2.Client"},
        {"path": "hunter2"},
        {"path": FEDMM + "Client", "args": {"hunter2": 1}},
        {"path": FEDMM + "Client", "args": {"norm": "hunter2"}},
        {"path": FEDMM + "Client", "args": {"epochs": "hunter2"}},
        {"path": FEDMM + "Client", "args": {"lr": "hunter2"}},
        {"path": FEDMM + "Client", "args": {"lr": ["hunter2"]}},
        {"path": FEDMM + "Client", "args": "hunter2"},
    ],
    ids=str,
)
def test_no_text_of_a_job_is_repeated_in_what_a_site_says_of_it(spec: object) -> None:
    with pytest.raises(StudyError) as caught:
        build_half(spec)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", [None, "fedmm", [], {"args": {}}, {"path": FEDMM + "Client", "args": [1]}]
)
def test_anything_but_path_and_args_is_refused(spec: object) -> None:
    with pytest.raises(StudyError):
        build_half(spec)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    folder = write_job(
        tmp_path / "bad",
        client={"path": FEDMM + "Client", "args": {"betta": 0.25}},
        server={"path": "os.system", "args": {}},
        rounds="many",
        study={"name": "Not a name"},
    )
    with pytest.raises(StudyError) as caught:
        load_job(folder)
    text = str(caught.value)
    for part in ("fedmm.Client among epochs", "1 other", "another path", "rounds", "study"):
        assert part in text
    assert "4 problem(s)" in text


def test_halves_that_differ_in_a_shared_setting_do_not_make_a_job(tmp_path: Path) -> None:
    client = {"path": FEDMM + "Client", "args": {"unimodal_heads": True, "head_hidden": 0}}
    with pytest.raises(StudyError, match="differ in head_hidden, unimodal_heads"):
        load_job(write_job(tmp_path / "bad", client=client))


def test_halves_of_different_algorithms_do_not_make_a_job(tmp_path: Path) -> None:
    server = {"path": "polyclinic.algorithms.fedavg.Server", "args": {}}
    with pytest.raises(StudyError, match="different tensors"):
        load_job(write_job(tmp_path / "bad", server=server))


def test_client_and_server_may_not_be_swapped(tmp_path: Path) -> None:
    server = {"path": FEDMM + "Client", "args": {}}
    with pytest.raises(StudyError, match="not the server half"):
        load_job(write_job(tmp_path / "bad", server=server))


def test_an_empty_folder_is_a_study_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"config_fed_server\.json"):
        load_job(tmp_path)


def shipped() -> list[Path]:
    jobs = Path(__file__).resolve().parents[1] / "jobs"
    return sorted(p.parent for p in jobs.rglob("meta.json"))


@pytest.mark.parametrize("folder", shipped(), ids=lambda p: p.name)
def test_every_shipped_job_loads(folder: Path) -> None:
    assert load_job(folder).rounds >= 0


def test_the_recommended_job_is_the_preset_on_the_study_of_fedmm() -> None:
    jobs = {folder.name: folder for folder in shipped()}
    preset, job = METHODS["fedmm_plus"], load_job(jobs["fedmm_plus_tcga_brca"])
    literal = load_job(jobs["fedmm_tcga_brca"])

    assert (job.client, job.server) == preset.halves()
    assert job.study == preset.adapted(literal.study)
    assert job.rounds == preset.most_rounds


def test_the_job_of_gliomas_is_the_preset_that_is_compared_on_them() -> None:
    job = load_job(next(folder for folder in shipped() if folder.name == "fedmepd_lgg"))
    client, server = METHODS["fedmepd"].halves()

    assert job.server == server
    # Beside what is compared the job scores validation patients each round, and every subset.
    assert isinstance(client, fedmepd.Client)
    assert job.client == replace(client, validate_every=1, subsets=True)
    assert job.rounds == METHODS["fedmepd"].most_rounds


@pytest.mark.parametrize(
    ("preset", "suffix"), [("gated", ""), ("image_only", "_image_only"), ("late", "_late")]
)
def test_the_jobs_of_films_and_metadata_are_presets_on_one_study(preset: str, suffix: str) -> None:
    jobs = {folder.name: folder for folder in shipped()}
    name = "cxr_metadata_nih_hannover"
    job, first = load_job(jobs[name + suffix]), load_job(jobs[name])

    assert (job.client, job.server) == METHODS[f"cxr_{preset}"].halves()
    assert (job.study, job.rounds) == (first.study, first.rounds)
    # A label among the features would be predicted from itself.
    features = {f for m in job.study.modalities.values() for f in m.features}
    assert not features & {"pneumonia", "view", "view_ap", "finding"}


def test_a_study_whose_model_no_site_should_bear_is_refused(tmp_path: Path) -> None:
    wide = {"hidden": [8192, 8192, 8192, 8192, 8192, 8192]}  # 5 * 67 million weights
    modality = {"kind": "vector", "features": ["f"], "encoder": wide}
    task = {"label": "y", "classes": ["no", "yes"]}
    study = {"name": "toy", "task": task, "modalities": {"a": modality}}
    folder = write_job(tmp_path / "large", study=study)
    with pytest.raises(StudyError, match="at most 256 million weights"):
        load_job(folder)


@pytest.mark.parametrize(
    ("args", "split", "fits"),
    [
        ({"select_epoch": True}, {}, False),
        ({"balance": "miles"}, {}, False),
        ({"balance": "miles", "balance_on": "train"}, {}, True),
        ({"balance": "miles", "select_epoch": True}, {"validation": 0.2}, True),
        ({"balance": "miles"}, {"source": "manifest"}, True),
        ({}, {}, True),
    ],
    ids=str,
)
def test_what_looks_at_validation_patients_is_refused_where_a_study_draws_none(
    tmp_path: Path, args: dict[str, Any], split: dict[str, Any], fits: bool
) -> None:
    study = {
        "name": "toy",
        "task": {"label": "y", "classes": ["no", "yes"]},
        "modalities": {"a": {"kind": "vector", "features": ["f"]}},
        "split": split,
    }
    client = {"path": FEDMM + "Client", "args": args}
    folder = write_job(tmp_path / "job", client=client, study=study)
    if fits:
        assert load_job(folder).name == "job"
    else:
        with pytest.raises(StudyError, match="without 'validation'"):
            load_job(folder)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The toy with an anchor step, among the algorithms; where its halves are."""
    places = [*polyclinic.algorithms.__path__, str(Path(__file__).parent / "flare" / "plugins")]
    monkeypatch.setattr(polyclinic.algorithms, "__path__", places)
    yield "polyclinic.algorithms.stepping."
    sys.modules.pop("polyclinic.algorithms.stepping", None)
    vars(polyclinic.algorithms).pop("stepping", None)


def stepping_job(folder: Path, toy: str, tasks: list[str], **rounds: Any) -> Path:
    """A job of the toy, whose server half wants an anchor step unless told otherwise."""
    wanted = rounds.pop("wants_anchor", True)
    client = rounds.pop("client", {"path": toy + "Client", "args": {}})
    server = {"path": toy + "Server", "args": {"wants_anchor": wanted}}
    write_job(folder, server=server, client=client)
    for name, change in (
        ("config_fed_server.json", lambda c: c["workflows"][0]["args"].update(rounds)),
        ("config_fed_client.json", lambda c: c["executors"][0].update(tasks=tasks)),
    ):
        path = folder / "app" / "config" / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("tasks", [["census", "train", "anchor"], ["*"]])
def test_a_job_whose_executor_answers_the_anchor_step_loads(
    tmp_path: Path, toy: str, tasks: list[str]
) -> None:
    assert load_job(stepping_job(tmp_path / "job", toy, tasks)).rounds == 3


def test_a_job_whose_server_does_the_anchor_step_loads(tmp_path: Path, toy: str) -> None:
    own = {"path": toy + "Client", "args": {}, "config_type": "dict"}
    folder = stepping_job(tmp_path / "j", toy, ["train"], anchor="server", anchor_client=own)
    assert load_job(folder).rounds_args["anchor"] == "server"


@pytest.mark.parametrize(
    ("rounds", "told"),
    [
        ({}, "no executor for the task 'anchor'"),
        ({"anchor": "server"}, "come together"),
        ({"anchor_client": {"path": "Client"}}, "come together"),
        ({"anchor": "server", "anchor_client": {"path": "Server"}}, "not the client half"),
        ({"anchor": "server", "anchor_client": {"args": {"leak": "x"}}}, "not the client half"),
        ({"client": {"path": FEDMM + "Client"}}, "the client half has none"),
        (
            {"wants_anchor": False, "anchor": "server", "anchor_client": {}},
            "without an anchor step",
        ),
    ],
    ids=str,
)
def test_a_job_whose_anchor_step_nobody_would_do_or_wants_does_not_load(
    tmp_path: Path, toy: str, rounds: dict[str, Any], told: str
) -> None:
    if "anchor_client" in rounds:
        said = rounds["anchor_client"]
        name = toy + said.get("path", "Client")
        rounds = rounds | {"anchor_client": {"path": name, "args": said.get("args", {})}}
    with pytest.raises(StudyError, match=told):
        load_job(stepping_job(tmp_path / "job", toy, ["census", "train"], **rounds))
