"""Step sizes by modality inside one hospital: a policy any algorithm's client can switch on.

The rule is MILES (``polyclinic.objectives.miles``). In a federation it is the site's own: scores
are of its validation patients, the first epoch of a round is judged by the model that was
broadcast, factors are set anew (not multiplied up) each epoch, and nothing of it is sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.device import here
from polyclinic.evaluation.metrics import scores
from polyclinic.models.multimodal import Output
from polyclinic.objectives.miles import multipliers, utilisation
from polyclinic.objectives.task import probabilities
from polyclinic.study import Task
from polyclinic.training import EVALUATION_BATCH, LocalTraining

MODALITY = "modality"


class Groups(Protocol):
    """What the policy needs of an optimiser."""

    param_groups: list[dict[str, Any]]


def encoder_groups(named: Mapping[str, Tensor], lr: float) -> list[dict[str, Any]]:
    """Optimiser groups: one for each encoder ``enc.<modality>``, one for all that is no encoder.

    The order of the weights is kept where encoders come first, so that a gradient norm is summed
    as it is without groups.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, weight in named.items():
        first, _, rest = name.partition(".")
        groups.setdefault(rest.split(".")[0] if first == "enc" else "", []).append(weight)
    return [{"params": p, "lr": lr, MODALITY: m} for m, p in groups.items()]


@dataclass
class Balance:
    """The policy at work in one round at one site.

    Attributes:
        base: step size of each optimiser group before any factor.
    """

    settings: LocalTraining
    patients: Patients
    optimiser: Groups
    base: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.base = [float(g["lr"]) for g in self.optimiser.param_groups]

    @classmethod
    def of(cls, settings: LocalTraining, patients: Patients, optimiser: Groups) -> "Balance | None":
        """The policy, or None where there is nothing to balance."""
        if settings.balance == "none" or len(patients.modalities) < 2:
            return None
        return cls(settings, patients, optimiser)

    def set_rates(self, forward: Callable[[Batch], Output]) -> dict[str, float]:
        """Give each encoder its step size for the next epoch; the factors, by modality.

        Heads and fusion keep the base rate. Without a defined score nothing is slowed.
        """
        found = modality_scores(forward, self.patients, self.settings.balance_on)
        used = utilisation(*found) if found else {}
        rates = multipliers(used, tau=self.settings.balance_tau, mu=self.settings.balance_mu)
        for group, base in zip(self.optimiser.param_groups, self.base, strict=True):
            group["lr"] = base * rates.get(group.get(MODALITY, ""), 1.0)
        return rates


def modality_scores(
    forward: Callable[[Batch], Output], patients: Patients, split: SplitName
) -> tuple[float, dict[str, float]] | None:
    """AUROC S_all of the joint head, and S_{all-m} by modality; None where one is not defined.

    Scores are over the patients who carry every modality of the site: over others the heads would
    be compared on unlike patients. S_{all-m} of two modalities is that of the other one's own head
    where it has one; else that of the joint head with m hidden.
    """
    task, names, labels = patients.study.task, patients.modalities, []
    logits: dict[str, list[Tensor]] = {m: [] for m in ("", *names)}
    with torch.no_grad():
        for batch in patients.batches(split, EVALUATION_BATCH):
            whole = torch.stack([batch.present[m] for m in names]).all(0)
            if not bool(whole.any()):
                continue
            batch = batch.taken(whole).to(here())
            output = forward(batch)
            labels.append(batch.labels)
            logits[""].append(output.fused)
            for m in names:
                logits[m].append(_without(m, names, output, batch, forward))
    if not labels:
        return None
    label = torch.cat(labels).cpu().numpy()
    found = {
        m: scores(_probabilities(parts, task), label, task.names).get("auroc")
        for m, parts in logits.items()
    }
    defined = {m: s for m, s in found.items() if s is not None}
    if len(defined) < len(found):
        return None
    return defined.pop(""), defined


def _probabilities(logits: list[Tensor], task: Task) -> npt.NDArray[np.float32]:
    found = probabilities(torch.cat(logits), multi_label=task.multi_label)
    return np.asarray(found.cpu())


def _without(
    m: str,
    names: tuple[str, ...],
    output: Output,
    batch: Batch,
    forward: Callable[[Batch], Output],
) -> Tensor:
    """Logits that do not know modality ``m``."""
    others = [n for n in names if n != m]
    if len(others) == 1 and others[0] in output.unimodal:
        return output.unimodal[others[0]]
    hidden = Batch(
        {**batch.inputs, m: torch.zeros_like(batch.inputs[m])},
        {**batch.fields, m: torch.zeros_like(batch.fields[m])},
        {**batch.present, m: torch.zeros_like(batch.present[m])},
        batch.labels,
    )
    return forward(hidden).fused
