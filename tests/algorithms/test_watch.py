"""A run that runs away or collapses is stopped, and no other."""

import numpy as np
import pytest
import torch

from hospital import Hospital, a_hospital, a_study
from polyclinic.algorithms import fedmm
from polyclinic.algorithms.watch import SIZES, collapsed, watch
from polyclinic.comparison import run_federation
from polyclinic.data.batch import Batch
from polyclinic.errors import TrainingDiverged
from polyclinic.exchange import State, Tensors
from polyclinic.objectives.prototype import EmbeddingStatistics
from polyclinic.study import Study, parse_study

LIMITS = {"runaway": 10.0, "collapse": 1e-8}
STUDY = a_study()


def trapped(norm: str) -> tuple[Study, dict[str, Hospital]]:
    """ELU and AlphaDropout, as the authors have it, at two hospitals with a weak signal."""
    encoder = {"hidden": [64, 64], "dropout": 0.25, "norm": norm}
    study = a_study({"a": 40}, embedding=16, encoder=encoder)
    sites = ("h1", "h2")
    made = {
        s: a_hospital(s, ("a",), study=study, n=96, seed=i, signal=0.3) for i, s in enumerate(sites)
    }
    return study, made


def test_the_trap_elu_alpha_dropout_without_norm_runs_away_and_is_stopped() -> None:
    """Prototypes in eval mode, pulled at in train mode: each round doubles their norm."""
    study, sites = trapped("none")
    client = fedmm.Client(epochs=3, lr=3e-3, t0=0)
    with pytest.raises(TrainingDiverged, match=r"'a' no larger than 10"):
        run_federation(sites, client, fedmm.Server(), study, 30)


def test_a_layer_norm_keeps_the_same_run_healthy() -> None:
    study, sites = trapped("layer")
    client = fedmm.Client(epochs=3, lr=3e-3, t0=0)
    result = run_federation(sites, client, fedmm.Server(), study, 30)
    norms = [heard["proto_norm/a"] for r in result.metrics[:-1] for heard in r.values()]
    assert max(norms) < 3 * min(norms)


def a_bag_hospital(site: str, study: Study, seed: int, n: int = 16) -> Hospital:
    """Patients with bags of four instances."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    x = draw.normal(size=(n, 4, 8)) + labels[:, None, None]
    there = torch.ones(n, dtype=torch.bool)
    inputs = {"a": torch.tensor(x, dtype=torch.float32)}
    fields = {"a": torch.ones((n, 4), dtype=torch.bool)}
    batch = Batch(inputs, fields, {"a": there}, torch.tensor(labels))
    splits = {"train": batch, "validation": batch, "test": batch}
    return Hospital(site, study, ("a",), splits)


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("kind", ["vector", "bag"])
def test_forty_rounds_of_encoders_of_default_size_are_not_stopped(kind: str, norm: str) -> None:
    """With ``none`` the vectors take ReLU: ELU with AlphaDropout is the trap."""
    encoder: dict[str, object] = {"norm": norm}
    modality: dict[str, object] = {"kind": "bag", "dim": 8, "encoder": encoder}
    if kind == "vector":
        encoder |= {"network": "mlp"} if norm == "none" else {}
        modality = {"kind": "vector", "features": ["f1", "f2", "f3", "f4"], "encoder": encoder}
    task = {"label": "y", "classes": ["no", "yes"]}
    study = parse_study({"name": "toy", "task": task, "modalities": {"a": modality}})
    sites = {
        s: a_bag_hospital(s, study, i)
        if kind == "bag"
        else a_hospital(s, ("a",), study=study, n=16, seed=i)
        for i, s in enumerate(("h1", "h2"))
    }
    result = run_federation(sites, fedmm.Client(epochs=1), fedmm.Server(), study, 40)
    assert len(result.metrics) == 41
    assert result.personal["h1"].keys() >= {"personal.head.fused.0.weight"}


def embeddings(scale: float, apart: float, spread: float = 0.0) -> EmbeddingStatistics:
    """Forty patients, half of each class, ``apart`` from each other around ``scale``."""
    found = EmbeddingStatistics.empty(2, 4)
    labels = torch.arange(40) % 2
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 4)))
    h = scale + apart * (labels[:, None] - 0.5) + spread * noise
    found.add(h, torch.ones(40, dtype=torch.bool), labels)
    return found


def followed(sizes: list[float]) -> int:
    """Rounds until embeddings of these sizes are stopped; 0 when they are not."""
    kept: Tensors = {}
    for t, size in enumerate(sizes, start=1):
        try:
            kept = watch({"a": embeddings(size, size)}, kept, **LIMITS)
        except TrainingDiverged:
            return t
    return 0


def test_doubling_every_round_is_stopped_in_the_first_round_beyond_ten_times() -> None:
    assert followed([2.0**t for t in range(10)]) == 5  # 1, 2, 4, 8, 16


@pytest.mark.parametrize(
    "sizes",
    [
        [1.0, 1.5, 2.0, 2.1, 2.0, 2.2, 2.1],  # what a healthy run does
        [1.0, 9.0, 9.5, 9.9],  # grows, and stays below ten times
        [1.0, 40.0, 30.0, 25.0, 26.0, 25.0],  # a jump that does not go on
        [1.05**t for t in range(80)],  # a slow drift, as without norm and prototypes
        [0.01, 0.1, 0.5, 1.0, 2.0, 2.1],  # a hundred times a first size that was tiny
        [1000.0, 1100.0, 1200.0, 1300.0],  # large from the start
    ],
)
def test_other_sizes_are_not(sizes: list[float]) -> None:
    assert followed(sizes) == 0


def test_nothing_is_stopped_before_the_third_round() -> None:
    assert followed([1e-3, 1e3]) == 0
    kept: Tensors = {}
    for _ in range(2):
        kept = watch({"a": embeddings(1.0, 0.0)}, kept, **LIMITS)
    with pytest.raises(TrainingDiverged, match="no further apart"):
        watch({"a": embeddings(1.0, 0.0)}, kept, **LIMITS)


@pytest.mark.parametrize(
    ("found", "gone"),
    [
        (embeddings(1.0, 0.0), True),
        (embeddings(0.0, 0.0), True),
        (embeddings(1.0, 0.0, spread=1e-6), True),
        (embeddings(1.0, 1e-6, spread=1e-6), False),  # tiny, but the classes stand apart
        (embeddings(1.0, 0.0, spread=1e-3), False),  # classes not apart, but patients are
    ],
)
def test_a_collapse_is_no_variance_and_no_separation(
    found: EmbeddingStatistics, gone: bool
) -> None:
    assert collapsed(found, LIMITS["collapse"]) is gone


def test_the_variance_between_classes_is_that_of_their_means() -> None:
    # Half of the patients at 1 - 1, half at 1 + 1: variance 1, all of it between the classes.
    assert embeddings(1.0, 2.0).variance == pytest.approx(1.0)
    assert embeddings(1.0, 2.0).between == pytest.approx(1.0)
    noisy = embeddings(1.0, 2.0, spread=1.0)
    assert noisy.between < noisy.variance


def test_an_embedding_that_is_not_finite_is_stopped_at_once() -> None:
    with pytest.raises(TrainingDiverged, match="finite"):
        watch({"a": embeddings(float("nan"), 0.0)}, {}, **LIMITS)


def test_sizes_are_kept_by_the_site_from_round_to_round_and_never_sent() -> None:
    hospital, server, client = a_hospital(study=STUDY), fedmm.Server(), fedmm.Client(epochs=1)
    first = client.train(hospital, server.initial(STUDY), {}, 1)
    second = client.train(hospital, server.initial(STUDY), first.personal, 2)
    for m in ("a", "b"):
        assert first.personal[SIZES + m].shape == (1,)
        assert second.personal[SIZES + m].shape == (2,)
        assert second.personal[SIZES + m][0] == first.personal[SIZES + m][0]
    assert not any("watch" in name for name in second.update.tensors)


def test_a_site_without_patients_of_a_modality_is_not_stopped() -> None:
    nobody = EmbeddingStatistics.empty(2, 4)
    assert watch({"a": nobody}, {}, **LIMITS)[SIZES + "a"].shape == (0,)


def test_a_collapsed_federation_is_stopped_in_its_third_round() -> None:
    hospital, server = a_hospital("h1", ("a",), study=STUDY), fedmm.Server()
    tensors = dict(server.initial(STUDY).tensors)
    # The same embedding for everybody: the last layer sees nothing and says its bias.
    tensors["enc.a.out.weight"] = np.zeros_like(tensors["enc.a.out.weight"])
    tensors["enc.a.out.bias"] = np.arange(STUDY.embedding, dtype=np.float32)
    client, kept = fedmm.Client(epochs=0), {}
    for t in (1, 2):
        kept = client.train(hospital, State(tensors), kept, t).personal
    with pytest.raises(TrainingDiverged, match="'a'"):
        client.train(hospital, State(tensors), kept, 3)
