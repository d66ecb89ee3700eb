"""What the clients of segmenting algorithms share: settings, a model in place, steps and scores."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from polyclinic.algorithms.moments import moments, restore_moments
from polyclinic.algorithms.overlap import dice, hd95, region_masks, subsets
from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.data.scan_recipe import recipe_of
from polyclinic.device import here
from polyclinic.errors import StudyError
from polyclinic.evaluation.metrics import LONGEST_NAME, MODELS, MOST_METRICS, THERE
from polyclinic.exchange import Tensors
from polyclinic.models.scan import ScanModel, ScanOutput
from polyclinic.models.scan.settings import ScanNetwork, least_edge, parse_network
from polyclinic.study import Study
from polyclinic.task import Mask
from polyclinic.training import BatchLoss, Fit, LocalTraining, fit, require, seeded

OVERLAP = 0.5
# Of one set of feature maps at the finest level, of which training holds tens: 256 MiB.
MOST_FEATURES = 1 << 26
WINDOWS = 8
LEAST_STEP = 0.01
UNUSED = ("head_lr", "class_balance", "label_smoothing", "select_epoch", "balance")
# Class probabilities of a batch of windows (b, C, I, J, K), from sequences (b, S, I, J, K).
Segmenter = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ScanTraining(LocalTraining):
    """Local training of a segmentation; the defaults are FedMEPD's.

    Attributes:
        decay_rounds: R of the step size lr (1 - (t-1)/R)^decay_power; 0 keeps it constant.
        keep_optimiser: a site keeps Adam's moments of all weights, as FedMEPD does; FedMEMA makes
            the optimiser anew each round.
        validate_every: rounds between scores of the validation patients; 0 scores them at the end
            alone. Whole scans are segmented for it, which may cost as much as training.
        subsets: score every subset of the sequences, not only what the site holds.
    """

    epochs: int = 1
    batch_size: int = 1
    lr: float = 2e-4
    weight_decay: float = 1e-5
    decay_power: float = 0.9
    validate_every: int = 1
    subsets: bool = False
    least_batch: ClassVar[int] = 1

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        require(0 <= self.decay_power <= 10, "decay_power", "in [0, 10]", self.decay_power)
        require(self.validate_every >= 0, "validate_every", "0 or more", self.validate_every)
        for name in UNUSED:
            default = getattr(ScanTraining, name)
            require(
                getattr(self, name) == default, name, "left out of a segmentation", "another value"
            )


def step_size(settings: ScanTraining, t: int) -> float:
    """lr (1 - (t-1)/R)^p, and no less than a hundredth of lr."""
    if not settings.decay_rounds:
        return settings.lr
    left = max(0.0, 1.0 - max(t - 1, 0) / settings.decay_rounds)
    return float(settings.lr * max(LEAST_STEP, left**settings.decay_power))


def mask_of(study: Study) -> Mask:
    """What the study asks of every voxel.

    Raises:
        StudyError: it asks something else.
    """
    if study.task.mask is None:
        raise StudyError(
            expected="a study whose task is a mask",
            got="classes or labels of patients",
            remedy="choose another algorithm, or give the study a mask",
        )
    return study.task.mask


def network_of(study: Study) -> ScanNetwork:
    """The checked network of a study.

    Raises:
        StudyError: the study does not segment, a setting is wrong, or crops are too small for it.
    """
    mask_of(study)
    network = parse_network(dict(study.scans.network) if study.scans else {})
    size, least = recipe_of(study).size, least_edge(network)
    flat = network.dims == 2
    if (size[2] == 1) != flat or min(size[: network.dims]) < least:
        raise StudyError(
            expected=f"crops of edges of {least} or more, one voxel thick for a network of 2 "
            "dimensions and only for that",
            got=" x ".join(str(n) for n in size),
            remedy="change 'size' of the recipe, or 'dims' or 'levels' of the network",
        )
    maps = math.prod(size) * network.width * (len(study.modalities) + 1) * recipe_of(study).crops
    if maps > MOST_FEATURES:
        raise StudyError(
            expected=f"feature maps of at most {MOST_FEATURES >> 20} million numbers: size x width "
            "x sequences x crops",
            got=f"{maps >> 20} million",
            remedy="lower 'size' or 'crops' of the recipe, or 'width' of the network",
        )
    return network


def require_tellable(settings: ScanTraining, study: Study) -> None:
    """Pass scores that a reply can hold, before a site trains for them and every reply is refused.

    Raises:
        StudyError: too many subsets and regions, or names of sequences that are too long together.
    """
    regions, whole = mask_of(study).regions, "+".join(study.modalities)
    sets = 1 << len(study.modalities) if settings.subsets else 2  # Dice of each, HD95 of the whole
    # In three splits; besides over all regions, the patients, and some of training.
    scores = 3 * (len(MODELS) * len(regions) * sets + 5) + 10
    longest = max(len(f"validation/dice/personal/{region}/{whole}") for region in regions)
    for most, found, what in (
        (MOST_METRICS, scores, "scores"),
        (LONGEST_NAME, longest, "letters in the name of a score"),
    ):
        if found > most:
            raise StudyError(
                expected=f"at most {most} {what}",
                got=str(found) if found < 10**6 else "millions",
                remedy="leave 'subsets' out, or have fewer sequences or regions, or shorter names",
            )


def scan_model(
    study: Study, held: tuple[str, ...], *, calibrated: bool, auxiliary: bool
) -> ScanModel:
    """The model of a site with encoders for ``held``, without values (on the meta device)."""
    with torch.device("meta"):
        return ScanModel(
            network_of(study),
            classes=len(mask_of(study).classes),
            sequences=tuple(sorted(study.modalities)),
            held=held,
            calibrated=calibrated,
            auxiliary=auxiliary,
        )


def shown(batch: Batch, sequences: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and presence as the model reads them."""
    inputs = {m: batch.inputs[m] for m in sequences if m in batch.inputs}
    return inputs, {m: batch.present[m] for m in inputs}


def train_scans(
    model: ScanModel,
    patients: Patients,
    settings: ScanTraining,
    batch_loss: BatchLoss,
    memory: Tensors,
    t: int,
    what: str = "train",
) -> tuple[Fit, Tensors]:
    """Local training of round ``t``, and the optimiser's moments to keep."""
    named = dict(model.named_parameters())
    with seeded(patients.study.seed, patients.site, t, what) as generator:
        # Paper: Adam, not AdamW.
        optimiser = torch.optim.Adam(
            list(named.values()),
            lr=step_size(settings, t),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        if settings.keep_optimiser:
            restore_moments(optimiser, named, memory)
        model.train()
        fitted = fit(optimiser, batch_loss, patients, settings, generator, settings.epochs)
    model.eval()
    return fitted, moments(optimiser, named) if settings.keep_optimiser else {}


def segmented(
    inputs: Mapping[str, Tensor],
    shape: torch.Size,
    sequences: tuple[str, ...],
    study: Study,
    segment: Segmenter,
) -> Tensor:
    """Class of every voxel (I, J, K) of one patient's whole stack, by overlapping windows.

    Args:
        inputs: the sequences that are shown, (1, 1, I, J, K) each.
        shape: of any of them.
        sequences: the slots of the model's input, those that are not shown zero.
    """
    size = recipe_of(study).size
    zero = torch.zeros(shape)
    stack = torch.cat([inputs.get(m, zero) for m in sequences], dim=1)  # (1, S, I, J, K)
    with torch.no_grad():
        windows = WINDOWS if size[2] == 1 else 1
        found = sliding_window_inference(stack.to(here()), size, windows, segment, OVERLAP)
    return torch.as_tensor(found)[0].argmax(0).to(torch.uint8).cpu()


def window_segmenter(
    model: ScanModel,
    sequences: tuple[str, ...],
    there: Mapping[str, bool],
    forward: Callable[[dict[str, Tensor], dict[str, Tensor]], ScanOutput],
) -> Segmenter:
    """How a model reads windows of which the sequences ``there`` are present."""

    def segment(windows: Tensor) -> Tensor:
        b = windows.shape[0]
        inputs = {m: windows[:, i : i + 1] for i, m in enumerate(sequences)}
        present = {
            m: torch.full((b,), there.get(m, False), device=windows.device) for m in sequences
        }
        return forward(inputs, present).probability

    model.eval()
    return segment


def scored(
    patients: Patients,
    split: SplitName,
    models: Mapping[str, Callable[[Batch, tuple[str, ...]], Tensor]],
    *,
    every_subset: bool,
) -> Tensors:
    """``dice/<model>/<region>/<subset>`` and ``hd95/...`` (n,) of a split's patients, and
    ``there/<region>``, whether a patient's mask has the region at all.

    A patient without one of a subset's sequences is scored on those it has; without any NaN.
    The distance is told of the site's whole set alone: it costs more than the segmentation.

    Args:
        models: by name, the class map (I, J, K) of a patient read with some sequences.
    """
    mask, held = mask_of(patients.study), tuple(sorted(patients.modalities))
    whole = "+".join(held)
    names = subsets(held) if every_subset else (whole,)
    found: dict[str, list[float]] = {}
    for batch in patients.batches(split, 1):
        truth = region_masks(batch.labels[0], mask)
        for region, marked in zip(mask.regions, truth, strict=True):
            found.setdefault(THERE + region, []).append(float(marked.any()))
        for model, segment in models.items():
            for subset in names:
                chosen = tuple(subset.split("+"))
                some = any(bool(batch.present[m][0]) for m in chosen if m in batch.present)
                predicted = region_masks(segment(batch, chosen), mask) if some else None
                _note(found, f"dice/{model}", subset, mask, truth, predicted, dice)
                if subset == whole:
                    _note(found, f"hd95/{model}", subset, mask, truth, predicted, hd95)
    return {k: np.array(v, dtype=np.float32) for k, v in found.items()}


def _note(
    found: dict[str, list[float]],
    what: str,
    subset: str,
    mask: Mask,
    truth: Tensor,
    predicted: Tensor | None,
    measure: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Append one patient's score of every region."""
    regions = tuple(mask.regions)
    values = [float("nan")] * len(regions) if predicted is None else measure(predicted, truth)
    for region, value in zip(regions, values, strict=True):
        found.setdefault(f"{what}/{region}/{subset}", []).append(float(value))
