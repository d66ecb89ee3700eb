"""A segmentation model at work at one site: how it reads batches and whole stacks."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from polyclinic.algorithms.anchors import KNOWN, level_name
from polyclinic.algorithms.personal_filters import FilterMemory
from polyclinic.algorithms.scan_training import (
    network_of,
    scan_model,
    segmented,
    shown,
    window_segmenter,
)
from polyclinic.algorithms.site import placed
from polyclinic.data.batch import Batch
from polyclinic.device import here
from polyclinic.exchange import State, Tensors
from polyclinic.models.scan import ScanModel, ScanOutput
from polyclinic.objectives.segmentation import segmentation_loss
from polyclinic.study import Study


@dataclass(frozen=True)
class Place:
    """Whose model it is: what it takes to open one, without a single patient."""

    site: str
    study: Study
    modalities: tuple[str, ...]


@dataclass
class ScanTask:
    """The model.

    Attributes:
        start: values of the federated tensors before training, the site's own rows in place.
        anchors: by level, (A, C_l); None where nothing is calibrated.
        known: which of them there are; (A,) bool.
        filters: what the site knows of its own filters; None without any.
    """

    place: Place
    model: ScanModel
    start: Tensors
    anchors: tuple[Tensor, ...] | None
    known: Tensor | None
    filters: FilterMemory | None = field(default=None, repr=False)

    @property
    def sequences(self) -> tuple[str, ...]:
        """All sequences of the study, in the order of the decoder's slots."""
        return tuple(sorted(self.place.study.modalities))

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> ScanOutput:
        """The model with the anchors it has."""
        out: ScanOutput = self.model(inputs, present, self.anchors, self.known)
        return out

    def told(self, batch: Batch) -> tuple[Tensor, ScanOutput]:
        """The loss of each crop (B,), and the forward pass behind it."""
        inputs, present = shown(batch, self.sequences)
        output = self.forward(inputs, present)
        return segmentation_loss(output, batch.labels, present), output

    def loss(self, batch: Batch) -> Tensor:
        """The loss of each crop (B,)."""
        return self.told(batch)[0]

    def segment(self, batch: Batch, chosen: tuple[str, ...]) -> Tensor:
        """Class of every voxel (I, J, K) of one patient's whole stack, read by some sequences."""
        there = {m: m in chosen and bool(batch.present[m][0]) for m in batch.present}
        kept = {m: v for m, v in batch.inputs.items() if there[m]}
        some = next(iter(batch.inputs.values()))
        segment = window_segmenter(self.model, self.sequences, there, self.forward)
        return segmented(kept, some.shape, self.sequences, self.place.study, segment)


def open_scan_task(
    place: Place,
    state: State,
    kept: Tensors,
    *,
    own: frozenset[str],
    calibrated: bool,
    auxiliary: bool,
    everything: bool,
) -> ScanTask:
    """The site's model with broadcast and personal tensors in place.

    Args:
        own: first parts of the names of what is personal whole (``calib``, ``aux``, ...).
        everything: encoders of all sequences of the study, not only of those the site holds.
    """
    study = place.study
    held = tuple(sorted(study.modalities if everything else place.modalities))
    model = scan_model(study, held, calibrated=calibrated, auxiliary=auxiliary)
    _, start = placed(model, place, lambda name: name.split(".")[0] not in own, state, kept)
    if not calibrated:
        return ScanTask(place, model, start, None, None)
    levels = range(1, len(network_of(study).channels) + 1)
    anchors = tuple(torch.tensor(state.tensors[level_name(n)], device=here()) for n in levels)
    known = torch.tensor(state.tensors[KNOWN], device=here()) > 0
    return ScanTask(place, model, start, anchors, known)
