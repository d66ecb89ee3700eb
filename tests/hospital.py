"""A hospital in memory: the smallest thing that is a ``Patients``."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polyclinic.data.batch import Batch, SplitName
from polyclinic.data.labels import people_of
from polyclinic.study import Study, parse_study


def a_study(modalities: dict[str, int] | None = None, **changes: object) -> Study:
    """A binary study of small vector modalities: name -> number of features."""
    sizes = modalities or {"a": 6, "b": 4}
    encoder = changes.pop("encoder", {"hidden": [8], "dropout": 0.0})
    payload = {
        "name": "toy",
        "task": {"label": "y", "classes": ["no", "yes"]},
        "embedding": 5,
        "seed": 7,
        "modalities": {
            m: {"kind": "vector", "features": [f"{m}{i}" for i in range(k)], "encoder": encoder}
            for m, k in sizes.items()
        },
    }
    return parse_study(payload | changes)


@dataclass(frozen=True)
class Hospital:
    """Patients in memory; each split is one batch's worth of tensors."""

    site: str
    study: Study
    modalities: tuple[str, ...]
    splits: dict[str, Batch]
    minimum_cell: int = 1
    owners: dict[str, Tensor] = field(default_factory=dict)  # left out, each row is a patient

    def size(self, split: SplitName) -> int:
        return self.splits[split].size

    def count(self, split: SplitName, modality: str) -> int:
        return int(self.splits[split].present[modality].sum())

    def distinct(self, split: SplitName, modality: str | None = None) -> int:
        return len(set(self._those(split, modality)[1].tolist()))

    def people(self, split: SplitName, modality: str | None = None) -> Tensor:
        return people_of(*self._those(split, modality), self.study.task)

    def _those(self, split: SplitName, modality: str | None) -> tuple[Tensor, Tensor]:
        whole = self.splits[split]
        owners = self.owners.get(split, torch.arange(whole.size))
        there = torch.ones(whole.size).bool() if modality is None else whole.present[modality]
        return whole.labels[there], owners[there]

    def labels(self, split: SplitName) -> Tensor:
        return self.splits[split].labels

    def batches(
        self, split: SplitName, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        whole = self.splits[split]
        order = (
            torch.arange(whole.size)
            if generator is None
            else torch.randperm(whole.size, generator=generator)
        )
        for start in range(0, whole.size, batch_size):
            yield whole.taken(order[start : start + batch_size])


def a_hospital(
    site: str = "north",
    modalities: tuple[str, ...] = ("a", "b"),
    *,
    study: Study | None = None,
    n: int = 24,
    seed: int = 0,
    absent: float = 0.0,
    minimum_cell: int = 1,
    signal: float = 1.5,
) -> Hospital:
    """A hospital whose classes differ by ``signal`` in every feature.

    ``absent`` is the share of patients who lack a modality they could have; one always stays.
    """
    study = study or a_study()
    draw = np.random.default_rng(seed)
    splits = {
        name: _batch(draw, study, modalities, size, absent, signal)
        for name, size in (("train", n), ("validation", n // 2), ("test", n // 2))
    }
    return Hospital(site, study, tuple(sorted(modalities)), splits, minimum_cell)


def _batch(
    draw: np.random.Generator,
    study: Study,
    modalities: tuple[str, ...],
    n: int,
    absent: float,
    signal: float,
) -> Batch:
    answers = _answers(n, study)
    labels = answers if answers.ndim == 1 else answers[:, 0]
    there = draw.random((n, len(modalities))) >= absent
    there[~there.any(1), 0] = True
    inputs, fields, present = {}, {}, {}
    for i, m in enumerate(modalities):
        x = draw.normal(size=(n, study.modalities[m].width)) + signal * labels[:, None]
        x[~there[:, i]] = 0.0
        inputs[m] = torch.tensor(x, dtype=torch.float32)
        present[m] = torch.tensor(there[:, i])
        fields[m] = present[m][:, None].expand(inputs[m].shape).clone()
    return Batch(inputs, fields, present, torch.tensor(answers))


def _answers(n: int, study: Study) -> npt.NDArray[np.generic]:
    """Classes in turn, (n,); or of L labels every combination in turn, all known, (n, L)."""
    if not study.task.multi_label:
        return np.arange(n) % len(study.task.classes)
    bits = np.arange(n)[:, None] >> np.arange(study.task.logits)
    return (bits & 1).astype(np.float32)


def not_knowing(hospital: Hospital, label: int) -> Hospital:
    """The same hospital, which knows a label of nobody."""
    splits = {}
    for name, batch in hospital.splits.items():
        labels = batch.labels.clone()
        labels[:, label] = torch.nan
        splits[name] = replace(batch, labels=labels)
    return replace(hospital, splits=splits)


def with_batch(hospital: Hospital, split: str, batch: Batch) -> Hospital:
    """The same hospital with other patients in one split."""
    return replace(hospital, splits=hospital.splits | {split: batch})
