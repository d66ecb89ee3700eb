"""What both halves of a model joined on an anchor share: settings, network, contract, start."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import nn

from polyclinic.algorithms.wire import INITIAL, UPDATE_BOUND, modalities_of
from polyclinic.errors import StudyError
from polyclinic.exchange import Contract, Tensors, TensorSpec, group_of
from polyclinic.models.early import EarlyModel
from polyclinic.models.joint import JOININGS, Joining, JointModel, JointSettings, LateModel
from polyclinic.models.tensors import require_bearable, tensors_of
from polyclinic.study import Study
from polyclinic.training import initialise, require

Mode = Literal["joint", "isolated", "image_only", "early", "late"]
MODES: tuple[Mode, ...] = ("joint", "isolated", "image_only", "early", "late")
Model = JointModel | EarlyModel | LateModel
# Settings of a client that a mode has no use for; a job that sets one means another mode.
IDLE: Mapping[Mode, tuple[str, ...]] = {
    "isolated": ("image_weight",),
    "image_only": ("joining", "image_weight", "metadata_weight"),
    "early": ("joining", "image_weight", "metadata_weight"),
    "late": ("joining",),
}


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Settings that both halves need and must agree on.

    Attributes:
        mode: ``joint``; ``isolated``, in which metadata never reach the anchor's
            encoder; or one of the rivals ``image_only``, ``early`` and ``late``.
        joining: ``gated``, ``concat`` or ``mean``, see ``polyclinic.models.joint``.
        anchor: modality that the others are joined to; empty takes the study's only image.
        head_hidden: width of the fused head's hidden layer; 0 makes it linear.
        head_dropout: after that layer.
    """

    mode: Mode = "joint"
    joining: Joining = "gated"
    anchor: str = ""
    head_hidden: int = 128
    head_dropout: float = 0.25


def check_joint(half: Joint) -> None:
    """Refuse settings out of range."""
    require(half.mode in MODES, "mode", " or ".join(MODES), half.mode)
    require(half.joining in JOININGS, "joining", " or ".join(JOININGS), half.joining)
    require(isinstance(half.anchor, str), "anchor", "the name of a modality", half.anchor)
    require(0 <= half.head_hidden <= 65536, "head_hidden", "in [0, 65536]", half.head_hidden)
    require(0.0 <= half.head_dropout < 1.0, "head_dropout", "in [0, 1)", half.head_dropout)


def refuse_idle(half: Joint) -> None:
    """Refuse a setting that differs from its default and that the mode does not use."""
    usual = {f.name: f.default for f in fields(half)}
    for name in IDLE.get(half.mode, ()):
        got = getattr(half, name)
        require(got == usual[name], name, f"left out, as {half.mode} does not use it", got)


def anchor_of(half: Joint, study: Study) -> str:
    """The anchor's name.

    Raises:
        StudyError: the study has no such modality, or not exactly one image.
    """
    images = [m for m, what in study.modalities.items() if what.kind == "image"]
    if half.anchor and half.anchor not in study.modalities:
        raise StudyError(
            expected="a modality of the study as 'anchor'",
            got="another name",
            remedy="correct 'anchor' in the job",
        )
    if not half.anchor and len(images) != 1:
        raise StudyError(
            expected="one modality of kind image, or 'anchor' in the job",
            got=f"{len(images)} images and no 'anchor'",
            remedy="name the anchor",
        )
    return half.anchor or images[0]


def dp_group(names: Iterable[str], anchor: str) -> list[str]:
    """Names that depend on metadata in mode ``isolated``: all but the anchor's encoder and head."""
    image = (f"enc.{anchor}.", f"head.{anchor}.")
    return [n for n in names if not n.startswith(image)]


def refuse_batch_norm(model: nn.Module, anchor: str) -> None:
    """Refuse statistics over a batch in what depends on metadata: they would mix patients there.

    Raises:
        StudyError: there are some, and a gradient of one patient could not be bounded.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    named = {n + ".": module for n, module in model.named_modules() if n}
    if any(isinstance(named[n], batch_norm) for n in dp_group(named, anchor)):
        raise StudyError(
            expected="no batch normalisation in the encoders that are joined to the anchor",
            got="some, in mode isolated",
            remedy="choose an encoder with group or layer normalisation",
        )


def model_of(half: Joint, study: Study, held: tuple[str, ...]) -> Model:
    """The network of a site that holds these modalities."""
    anchor = anchor_of(half, study)
    if half.mode == "early":
        return EarlyModel(study, anchor, half.head_hidden, half.head_dropout)
    if half.mode in ("late", "image_only"):
        read = held if half.mode == "late" else tuple(m for m in held if m == anchor)
        return LateModel(study, read)
    settings = JointSettings(
        anchor=anchor,
        joining=half.joining,
        hidden=half.head_hidden,
        dropout=half.head_dropout,
        isolated=half.mode == "isolated",
    )
    model = JointModel(study, held, settings)
    if settings.isolated:
        refuse_batch_norm(model, anchor)
    return model


def contract_of(half: Joint, study: Study) -> Contract:
    """Every tensor that may cross the wall: of a modality with its holders, the rest with all."""
    with torch.device("meta"):
        model = model_of(half, study, modalities_of(study))
    require_bearable(model)

    def holder(name: str) -> str | None:
        part = name.split(".")[2 if name.startswith("fuse.gate.") else 1]
        owned = name.startswith(("enc.", "head.", "fuse.gate.")) and part in study.modalities
        return part if owned and half.mode != "early" else None

    named = {n: v for n, v in model.state_dict().items() if v.is_floating_point()}
    specs = {n: TensorSpec(tuple(v.shape), holder(n), UPDATE_BOUND) for n, v in named.items()}
    return Contract(specs)


def initial_of(half: Joint, study: Study) -> Tensors:
    """Values of the contract's tensors at round 0, drawn from the study's seed."""
    model = model_of(half, study, modalities_of(study))
    names = sorted(contract_of(half, study).specs)
    initialise(model, sorted({group_of(n) for n in names}), study.seed, INITIAL)
    values = tensors_of(model)
    return {n: values[n] for n in names}
