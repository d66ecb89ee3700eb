"""Prototypes at the wall: their names, and what a site may say of them."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polyclinic.algorithms.fold import Float64
from polyclinic.algorithms.wire import OpenRound
from polyclinic.data.batch import Patients
from polyclinic.device import here
from polyclinic.errors import ContractViolation, StudyError
from polyclinic.exchange import STORE, Contract, State, Tensors, TensorSpec
from polyclinic.models.multimodal import SiteModel
from polyclinic.objectives.prototype import EmbeddingStatistics, separation
from polyclinic.study import Study
from polyclinic.training import EVALUATION_BATCH, seeded

PrototypeWeight = Literal["uniform", "count"]
EmbeddingMode = Literal["eval", "train"]
Statistics = dict[str, EmbeddingStatistics]

PROTO = "store.proto."
COUNT = "store.count."
COUNT_BOUND = {"uniform": 1.0, "count": 1e5}
# Of the entries of a prototype. Behind a LayerNorm an entry is at most sqrt(D) times the norm's own
# gain, which starts at 1; without one the longest healthy prototype seen was 210 long (see
# docs/sharp-edges.md), and no entry exceeds the length.
GAIN_BOUND = 4.0
LENGTH_BOUND = 250.0


def prototype_contract(model: Contract, study: Study, weight: PrototypeWeight) -> Contract:
    """The model's contract with (C, D) prototypes and (C,) counts for the holders of a modality.

    Raises:
        StudyError: the task has no classes to have prototypes of.
    """
    if study.task.multi_label:
        raise StudyError(
            expected="a task of classes, each of which has a prototype",
            got=f"one of {len(study.task.labels)} label(s)",
            remedy="choose an algorithm without prototypes, or make one label the task",
        )
    classes, specs = len(study.task.classes), dict(model.specs)
    for m, modality in study.modalities.items():
        normed = modality.encoder.get("norm", "layer") == "layer"
        bound = GAIN_BOUND * study.embedding**0.5 if normed else LENGTH_BOUND
        specs[PROTO + m] = TensorSpec((classes, study.embedding), m, bound)
        specs[COUNT + m] = TensorSpec((classes,), m, COUNT_BOUND[weight])
    return Contract(specs)


def site_statistics(
    model: SiteModel, patients: Patients, mode: EmbeddingMode, t: int
) -> Statistics:
    """Statistics of the embeddings of all training patients, by modality.

    ``train`` leaves dropout on, as the authors' script does.
    """
    study = patients.study
    found = {
        m: EmbeddingStatistics.empty(len(study.task.classes), study.embedding)
        for m in patients.modalities
    }
    model.train(mode == "train")
    with torch.no_grad(), seeded(study.seed, patients.site, t, "prototypes"):
        for batch in patients.batches("train", EVALUATION_BATCH):
            embeddings, _ = model.embed(batch.to(here()))
            for m, h in embeddings.items():
                found[m].add(h.cpu(), batch.present[m], batch.labels)
    model.eval()
    return found


def voting_rows(people: Tensor, minimum_cell: int) -> Tensor:
    """Classes of which the site may tell the mean: at least a cell of patients; (C,) bool."""
    return people >= max(1, minimum_cell)


def prototype_update(found: Statistics, patients: Patients, weight: PrototypeWeight) -> Tensors:
    """What a site says: class means (C, D), and per class 1 or its count; 0 where it is silent.

    A mean is over records where patients have several; a count is of patients, as the smallest
    cell is, which the egress filter holds it to.
    """
    tensors: Tensors = {}
    for m, statistics in found.items():
        people = patients.people("train", m)
        votes = voting_rows(people, patients.minimum_cell)
        counts = people if weight == "count" else torch.ones(len(votes))
        means = torch.where(votes[:, None], statistics.means, 0.0)
        tensors[PROTO + m] = means.numpy().astype(np.float32)
        tensors[COUNT + m] = torch.where(votes, counts, 0).numpy().astype(np.float32)
    return tensors


def class_votes(tensors: Tensors, weight: PrototypeWeight) -> dict[str, Float64]:
    """Each modality's weight per class in (1): 1 for a site that votes, or its count.

    Raises:
        ContractViolation: prototypes without counts or the reverse, or a bad count.
    """
    votes: dict[str, Float64] = {}
    modalities = {n.removeprefix(PROTO).removeprefix(COUNT) for n in tensors if n.startswith(STORE)}
    for m in sorted(modalities):
        counts = tensors.get(COUNT + m)
        whole = isinstance(counts, np.ndarray) and np.issubdtype(counts.dtype, np.floating)
        if not whole or PROTO + m not in tensors or not (np.asarray(counts) >= 0).all():
            raise ContractViolation(
                expected=f"prototypes of '{m}' with counts of 0 or more",
                got="one without the other, or another number",
                remedy="refuse the update",
            )
        rows = np.asarray(counts, dtype=np.float64)
        votes[m] = rows if weight == "count" else (rows > 0).astype(np.float64)
    return votes


def average_prototypes(opened: OpenRound) -> Tensors:
    """p̄_c^(k), and 1 for every class that has one.  (1)

    The mean over the hospitals that saw the class; a class nobody saw this round keeps its old
    prototype, and one nobody ever saw has none.
    """
    out: Tensors = {}
    for name in sorted(n for n in opened.means.names() if n.startswith(PROTO)):
        modality = name.removeprefix(PROTO)
        old, had = opened.state.tensors[name], opened.state.tensors[COUNT + modality]
        voted = opened.means.weight(name) > 0  # (C,)
        mean = opened.means.mean(name).astype(np.float32)
        out[name] = np.where(voted[:, None], mean, old)
        out[COUNT + modality] = np.where(voted, 1.0, had).astype(np.float32)
    return out


def known_prototypes(state: State, modality: str) -> tuple[Tensor, Tensor]:
    """p̄ (C, D) as broadcast, and which classes have one (C,)."""
    values = torch.tensor(np.asarray(state.tensors[PROTO + modality]), device=here())
    return values, torch.tensor(np.asarray(state.tensors[COUNT + modality]), device=here()) > 0


def statistics_metrics(found: Statistics, patients: Patients) -> dict[str, float]:
    """Norm and separation of the site's own class means, and embedding variance, by modality.

    Each only over a smallest cell of patients or more.
    """
    metrics: dict[str, float] = {}
    for m, statistics in found.items():
        if patients.distinct("train", m) >= patients.minimum_cell:
            metrics[f"embedding_variance/{m}"] = statistics.variance
        votes = voting_rows(patients.people("train", m), patients.minimum_cell)
        norm, apart = separation(statistics.means, votes)
        if int(votes.sum()) >= 1:
            metrics[f"proto_norm/{m}"] = norm
        if int(votes.sum()) >= 2:
            metrics[f"proto_separation/{m}"] = apart
    return metrics
