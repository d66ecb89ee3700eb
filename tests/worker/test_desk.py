"""The checks around a client half: what may come in, what may go out, what may be told."""

from typing import Any

import numpy as np
import pytest

from polyclinic.errors import ContractViolation, StudyError
from polyclinic.exchange import Contract, TensorSpec
from polyclinic.worker.desk import build_client, checked, floored, listed

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


def test_a_client_half_with_unknown_arguments_is_refused_by_name() -> None:
    with pytest.raises(StudyError, match="betta"):
        build_client({"path": "polyclinic.algorithms.fedmm.Client", "args": {"betta": 0.25}})


def test_fedmms_client_half_is_built() -> None:
    client = build_client({"path": "polyclinic.algorithms.fedmm.Client", "args": {"beta": 0.5}})
    assert type(client).__module__ == "polyclinic.algorithms.fedmm"
