"""The checks around a client half: what may come in, what may go out, what may be told."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from polyclinic.data.quarantine import Entry, QuarantineReport
from polyclinic.errors import ContractViolation, SiteError, StudyError
from polyclinic.exchange import Contract, TensorSpec
from polyclinic.settings import SiteSettings
from polyclinic.study import parse_study
from polyclinic.worker.checks import checked, floored, listed
from polyclinic.worker.desk import Desk, build_client
from polyclinic.worker.frame import Message

CONTRACT = Contract(
    {
        "enc.cnv.w": TensorSpec((2,), "cnv", bound=10.0),
        "enc.rna.w": TensorSpec((2,), "rna"),
        "fuse.w": TensorSpec((1,)),
        "personal.w": TensorSpec((1,)),
    }
)


def test_what_the_contract_names_for_the_modalities_held_passes_as_it_is() -> None:
    tensors = {"enc.cnv.w": np.array([1, 10], np.float32), "fuse.w": np.zeros(1, np.float32)}
    assert checked(tensors, CONTRACT, ("cnv",)) is tensors


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("enc.other.w", np.zeros(2, np.float32)),
        ("enc.rna.w", np.zeros(2, np.float32)),
        ("personal.w", np.zeros(1, np.float32)),
        ("enc.cnv.w", np.zeros(3, np.float32)),
        ("enc.cnv.w", np.zeros((1, 2), np.float32)),
        ("enc.cnv.w", np.zeros(2, np.float64)),
        ("enc.cnv.w", np.array([0, np.inf], np.float32)),
        ("enc.cnv.w", np.array([0, 10.5], np.float32)),
    ],
)
def test_anything_else_is_refused_whole(name: str, array: Any) -> None:
    with pytest.raises(ContractViolation, match=name):
        checked({"fuse.w": np.zeros(1, np.float32), name: array}, CONTRACT, ("cnv",))


def test_values_may_be_larger_than_one_rounds_update() -> None:
    tensors = {"enc.cnv.w": np.array([0, 99], np.float32)}
    assert checked(tensors, CONTRACT, ("cnv",), slack=10.0) is tensors


def test_small_counts_are_raised_to_the_smallest_cell_and_other_scalars_dropped() -> None:
    told = floored({"n": 200, "n.cnv": 3, "n.rna": 0, "age": 61.0}, 11)
    assert told == {"n": 200.0, "n.cnv": 11.0, "n.rna": 0.0}


def test_listed_metrics_pass() -> None:
    assert listed({"validation/auroc": np.float32(0.5)}) == {"validation/auroc": 0.5}


@pytest.mark.parametrize("metrics", [{"age of oldest": 91.0}, {"train/loss": float("nan")}])
def test_other_metrics_are_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(ContractViolation, match="metrics"):
        listed(metrics)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "os.system",
        "polyclinic.jobs.load_job",
        "polyclinic.algorithms.base.Client",
        "polyclinic.algorithms.base.dataclass",
        "polyclinic.algorithms.base.Study",
        "polyclinic.algorithms.fedmm.Server",
        "polyclinic.algorithms.nothing.Client",
    ],
)
def test_only_a_client_half_is_built(path: str) -> None:
    with pytest.raises(StudyError):
        build_client({"path": path, "args": {}})


def test_a_client_half_with_unknown_arguments_is_refused() -> None:
    with pytest.raises(StudyError, match=r"arguments .*fedmm\.Client"):
        build_client({"path": "polyclinic.algorithms.fedmm.Client", "args": {"betta": 0.25}})


def test_fedmms_client_half_is_built() -> None:
    client = build_client({"path": "polyclinic.algorithms.fedmm.Client", "args": {"beta": 0.5}})
    assert type(client).__module__ == "polyclinic.algorithms.fedmm"


FEDMM = {"path": "polyclinic.algorithms.fedmm.Client", "args": {"epochs": 1}}
PANELS = {"a": ["a1", "a2"], "b": ["b1"]}


def desk(root: Path, carry_b: int, patients: int = 24, minimum_cell: int = 11) -> Desk:
    """A hospital that trains on all its patients, all with ``a`` and some with ``b``."""
    ids = [f"p{i:02d}" for i in range(patients)]
    rows = ["patient_id,y,split", *(f"{p},{'ab'[i % 2]},train" for i, p in enumerate(ids))]
    (root / "manifest.csv").write_text("\n".join(rows))
    for name, count in (("a", patients), ("b", carry_b)):
        lines = [",".join(["patient_id", *PANELS[name]])]
        lines += [",".join([p, *(str(i) for _ in PANELS[name])]) for i, p in enumerate(ids[:count])]
        (root / f"{name}.csv").write_text("\n".join(lines))
    cohort = {
        "root": str(root),
        "modalities": {m: {"kind": "vector", "table": f"{m}.csv"} for m in PANELS},
    }
    settings = SiteSettings.model_validate(
        {
            "site": "north",
            "storage": str(root / "state"),
            "minimum_cell": minimum_cell,
            "cohorts": {"toy": cohort},
        }
    )
    study = {
        "name": "toy",
        "task": {"label": "y", "classes": ["a", "b"]},
        "modalities": {m: {"kind": "vector", "features": f} for m, f in PANELS.items()},
        "split": {"source": "manifest"},
        "embedding": 4,
    }
    return Desk.open(settings, parse_study(study), build_client(FEDMM))


def trained(opened: Desk) -> Message:
    """The answer to the first round."""
    from polyclinic.algorithms.fedmm import Server

    state = Server().initial(opened.study)
    names = opened.contract.names_for(opened.patients.modalities)
    tensors = {f"state/{n}": a for n, a in state.restricted(names).tensors.items()}
    return opened.answer(Message({"do": "train", "round": 0, "t": 1}, tensors))


def test_a_modality_that_too_few_training_patients_carry_is_neither_announced_nor_trained(
    tmp_path: Path,
) -> None:
    opened = desk(tmp_path, carry_b=10)
    said = opened.answer(Message({"do": "census"})).head["scalars"]
    assert said["modalities"] == ["a"]
    assert "n.b" not in said
    reply = trained(opened)
    assert not any(".b." in n or n.endswith(".b") for n in reply.part("update"))
    assert not any(name.endswith("/b") for name in reply.head["metrics"])


def test_a_modality_with_just_enough_training_patients_is_trained(tmp_path: Path) -> None:
    reply = trained(desk(tmp_path, carry_b=11))
    assert "store.proto.b" in reply.part("update")


def test_a_hospital_with_one_training_patient_sends_nothing(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="minimum_cell") as refusal:
        desk(tmp_path, carry_b=1, patients=1)
    assert not any(c.isdigit() for c in str(refusal.value))


def test_a_public_cohort_of_one_patient_is_its_owners_choice(tmp_path: Path) -> None:
    assert desk(tmp_path, carry_b=1, patients=2, minimum_cell=1).patients.modalities == ("a", "b")


def test_a_small_number_of_patients_set_aside_in_training_is_not_told(tmp_path: Path) -> None:
    opened = desk(tmp_path, carry_b=11)
    few, many = {"quarantined/non_finite": 10.0}, {"quarantined/non_finite": 11.0}
    assert opened._metrics(few | {"train/loss": 0.5}) == {"train/loss": 0.5}
    assert opened._metrics(many) == many


def test_the_reply_to_training_states_the_contract_it_was_held_to(tmp_path: Path) -> None:
    reply = trained(desk(tmp_path, carry_b=10))
    assert reply.head["contract"].keys() == reply.part("update").keys()
    for name, array in reply.part("update").items():
        assert tuple(reply.head["contract"][name]["shape"]) == array.shape


LABELS = ("pneumonia", "view_ap")


def film_desk(root: Path, patients: int, films: int, client: str = "fedmm", **task: Any) -> Desk:
    """A hospital with so many films of each patient, all of modality ``a``; half of them tested."""
    of = [(f"p{i:02d}", f"f{i:02d}-{j}", i) for i in range(patients) for j in range(films)]
    head = "patient_id,film_id,y,pneumonia,view_ap,split"
    rows = []
    for p, f, i in of:
        pneumonia, view = (i // 2) % 2, "" if i >= 12 else i % 2
        rows.append(f"{p},{f},{'ab'[i % 2]},{pneumonia},{view},{'test' if i % 4 > 1 else 'train'}")
    (root / "manifest.csv").write_text("\n".join([head, *rows]))
    lines = [f"{f},{i},{j}" for j, (_, f, i) in enumerate(of)]
    (root / "a.csv").write_text("\n".join(["film_id,a1,a2", *lines]))
    modalities = {"a": {"kind": "vector", "table": "a.csv"}}
    cohort = {"root": str(root), "record_column": "film_id", "modalities": modalities}
    settings = {"site": "north", "storage": str(root / "state"), "cohorts": {"toy": cohort}}
    study = {
        "name": "toy",
        "task": task or {"label": "y", "classes": ["a", "b"]},
        "modalities": {"a": {"kind": "vector", "features": PANELS["a"]}},
        "split": {"source": "manifest"},
        "embedding": 4,
    }
    spec = {"path": f"polyclinic.algorithms.{client}.Client", "args": {"epochs": 1}}
    return Desk.open(SiteSettings.model_validate(settings), parse_study(study), build_client(spec))


def test_three_patients_of_ten_films_are_refused_for_training_as_three_patients_are(
    tmp_path: Path,
) -> None:
    for films in (1, 10):
        folder = tmp_path / str(films)
        folder.mkdir()
        with pytest.raises(SiteError, match="minimum_cell"):
            film_desk(folder, patients=6, films=films)  # three of them in training


def test_a_site_of_many_films_announces_films_and_tells_scores_of_enough_patients(
    tmp_path: Path,
) -> None:
    opened = film_desk(tmp_path, patients=48, films=2)
    said = opened.answer(Message({"do": "census"})).head["scalars"]
    assert (said["n"], said["n.a"]) == (48.0, 48.0)  # 24 patients in training
    assert "store.proto.a" in trained(opened).part("update")
    metrics = evaluated(opened)
    assert metrics["test/n"] == 48.0
    # How many films were set aside says nothing of how many patients.
    assert opened._metrics({"quarantined/non_finite": 40.0}) == {}


def test_films_enough_of_too_few_patients_of_a_class_have_no_score(tmp_path: Path) -> None:
    opened = film_desk(tmp_path, patients=40, films=9)  # ten patients of each class are tested
    assert opened.patients.people("test").tolist() == [10, 10]
    assert evaluated(opened) == {}
    assert opened._metrics({"test/auroc": 0.5, "train/loss": 0.1}) == {"train/loss": 0.1}


def evaluated(opened: Desk) -> dict[str, float]:
    """Metrics of the test split on the initial state."""
    half = __import__(type(opened.client).__module__, fromlist=["Server"])
    state = half.Server().initial(opened.study)
    names = opened.contract.names_for(opened.patients.modalities)
    tensors = {f"state/{n}": a for n, a in state.restricted(names).tensors.items()}
    request = Message({"do": "evaluate", "round": 0, "splits": ["test"]}, tensors)
    return dict(opened.answer(request).head["metrics"])


def test_a_label_known_of_too_few_patients_is_not_told_and_the_others_are(tmp_path: Path) -> None:
    task = {"labels": {name: {} for name in LABELS}}
    opened = film_desk(tmp_path, patients=48, films=1, client="fedavg", **task)
    # Of 24 tested patients every one has pneumonia known, all yes; view of six.
    assert opened.patients.people("test").tolist() == [[0, 24], [3, 3]]
    metrics = evaluated(opened)
    assert "test/brier/pneumonia" in metrics
    assert not any(name.endswith("view_ap") for name in metrics)
    hidden = {"test/auroc/view_ap": 0.5, "test/brier/pneumonia": 0.1, "train/loss": 0.1}
    assert opened._metrics(hidden) == {"test/brier/pneumonia": 0.1, "train/loss": 0.1}


def test_values_that_a_job_calls_impossible_are_not_told_however_many() -> None:
    value = Entry("impossible_value", "labs", "lines", partial=True, count=500)
    rows = [Entry("not_finite", "wsi", "hash", f"p{i}") for i in range(11)]
    opened = SimpleNamespace(
        patients=SimpleNamespace(quarantine=QuarantineReport((value, *rows), 100)),
        settings=SimpleNamespace(minimum_cell=11),
    )
    assert Desk._quarantined(opened) == {"quarantined.not_finite": 11.0}  # type: ignore[arg-type]


def test_fifty_files_of_one_patient_are_one_patient_and_are_not_told() -> None:
    of_one = [Entry("not_finite", "wsi", f"hash {i}", "p0") for i in range(50)]
    of_many = [Entry("unreadable", "wsi", "hash", f"p{i}") for i in range(11)]
    opened = SimpleNamespace(
        patients=SimpleNamespace(quarantine=QuarantineReport((*of_one, *of_many), 100)),
        settings=SimpleNamespace(minimum_cell=11),
    )
    assert Desk._quarantined(opened) == {"quarantined.unreadable": 11.0}  # type: ignore[arg-type]
