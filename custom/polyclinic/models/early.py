"""Early fusion: metadata written beside the pixels, as constant planes of the film.

Every field gives two more channels: its value, and whether it is there. One encoder reads them
all; it is that of the image's kind, whose first convolution is made wide enough. One that computes
oriented gradients reads what its planes say as further entries of its description: a plane has no
gradient.
"""

import torch
from torch import Tensor, nn

from polyclinic import models
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.models.hog import Hog
from polyclinic.models.joint import refuse_fused
from polyclinic.models.multimodal import FUSED, Output, fused_head, logits_of
from polyclinic.study import Study


class EarlyModel(nn.Module):
    """One encoder over the film and the planes of all other modalities, and one head.

    It reads batches that hold every modality of the study, zero where absent.

    Guarantees:
    - The output does not depend on what stands where ``present`` or ``fields`` is False.

    Raises:
        StudyError: the anchor is no image, or another modality is no vector.
    """

    def __init__(self, study: Study, anchor: str, hidden: int, dropout: float) -> None:
        super().__init__()
        refuse_fused(study)
        self.anchor = anchor
        self.others = tuple(m for m in sorted(study.modalities) if m != anchor)
        kinds = {study.modalities[m].kind for m in self.others}
        if study.modalities[anchor].kind != "image" or kinds - {"vector"}:
            raise StudyError(
                expected="an image with vectors beside it, which become planes of the image",
                got="other kinds",
                remedy="choose mode joint, late or image_only",
            )
        film = study.modalities[anchor]
        channels = film.width + sum(2 * study.modalities[m].width for m in self.others)
        encoder = widened(models.build(anchor, film, study.embedding), channels)
        self.enc = nn.ModuleDict({anchor: encoder})
        out = logits_of(study)
        self.head = nn.ModuleDict({FUSED: fused_head(study.embedding, out, hidden, dropout)})

    def forward(self, batch: Batch) -> Output:
        """Embeddings and logits of a batch."""
        x = planes(batch, self.anchor, self.others)
        # A patient without a film still has planes to read: no row is left to the encoder to mask.
        everything = torch.ones_like(batch.fields[self.anchor])
        h = self.enc[self.anchor](x, everything)
        there = torch.stack([batch.present[m] for m in (self.anchor, *self.others)]).any(0)
        return Output({self.anchor: h}, {self.anchor: there}, self.head[FUSED](h), {})


def planes(batch: Batch, anchor: str, others: tuple[str, ...]) -> Tensor:
    """The film with its constant planes, (B, C + 2 Σ F, H, W): values, then presence, by field."""
    film, there = batch.inputs[anchor], batch.present[anchor]
    parts = [torch.where(there[:, None, None, None], film, film.new_zeros(()))]
    for m in others:
        fields = batch.fields[m] & batch.present[m][:, None]  # (B, F)
        values = torch.where(fields, batch.inputs[m], film.new_zeros(()))
        flat = torch.cat([values, fields.to(film)], dim=1)  # (B, 2F)
        parts.append(flat[:, :, None, None].expand(-1, -1, *film.shape[2:]))
    return torch.cat(parts, dim=1)


def widened(encoder: nn.Module, channels: int) -> nn.Module:
    """The encoder with another number of input channels instead of one, in place.

    Raises:
        StudyError: it has no convolution to widen.
    """
    if any(isinstance(layer, Hog) for layer in encoder.modules()):
        old = encoder.get_submodule("out")
        assert isinstance(old, nn.Linear)
        encoder.out = nn.Linear(old.in_features + channels - 1, old.out_features)
        return encoder
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.Conv2d):  # the first is the one that reads the pixels
            wide = nn.Conv2d(
                channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                stride=layer.stride,  # type: ignore[arg-type]
                padding=layer.padding,  # type: ignore[arg-type]
                bias=layer.bias is not None,
            )
            parent, _, child = name.rpartition(".")
            setattr(encoder.get_submodule(parent), child, wide)
            return encoder
    raise StudyError(
        expected="an image encoder that begins with a convolution",
        got="another",
        remedy="choose another encoder, or mode joint",
    )
