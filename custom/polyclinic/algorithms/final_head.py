"""A fresh local head on frozen federated encoders: what a site deploys."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from polyclinic.algorithms.heads import Losses
from polyclinic.algorithms.site import SiteTask
from polyclinic.algorithms.wire import INITIAL
from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.device import here
from polyclinic.models.multimodal import FUSED
from polyclinic.training import EVALUATION_BATCH, Fit, LocalTraining, fit, initialise, seeded


@dataclass(frozen=True)
class Embedded:
    """Training patients as their embeddings: ``Batch.inputs`` holds h^(k), (B, D)."""

    whole: Batch

    def batches(
        self, split: SplitName, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Shuffled batches; a last batch of one joins the one before."""
        order = torch.randperm(self.whole.size, generator=generator)
        parts = list(torch.split(order, batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        for part in parts:
            yield self.whole.taken(part)


def embedded(task: SiteTask, patients: Patients) -> Embedded:
    """Every training patient once through the encoders, in eval mode."""
    task.model.eval()
    hs: dict[str, list[Tensor]] = {}
    there: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for batch in patients.batches("train", EVALUATION_BATCH):
            h, _ = task.model.embed(batch.to(here()))
            for m in h:
                hs.setdefault(m, []).append(h[m].cpu())
                there.setdefault(m, []).append(batch.present[m])
    inputs = {m: torch.cat(v) for m, v in hs.items()}
    present = {m: torch.cat(v) for m, v in there.items()}
    fields = {m: v[:, None] for m, v in present.items()}
    return Embedded(Batch(inputs, fields, present, patients.labels("train")))


def fit_fresh_head(
    task: SiteTask,
    patients: Patients,
    settings: LocalTraining,
    losses: Losses,
    epochs: int,
) -> Fit:
    """Draw the fused head anew and fit it for ``epochs`` on frozen embeddings; in place."""
    model, study = task.model, patients.study
    source = embedded(task, patients)
    initialise(model, [f"head.{FUSED}"], study.seed, INITIAL, patients.site, "final")
    weights = list(model.head[FUSED].parameters())
    lr = settings.head_lr or settings.lr

    def batch_loss(batch: Batch) -> Tensor:
        output = model.classify(batch.inputs, batch.present)
        return losses(output.fused, batch.labels)

    with seeded(study.seed, patients.site, "final") as generator:
        optimiser = torch.optim.AdamW(
            weights, lr=lr, weight_decay=settings.weight_decay, fused=True
        )
        model.train()
        fitted = fit(optimiser, batch_loss, source, settings, generator, epochs)
    model.eval()
    return fitted
