"""The segmentation model of one site: FedMEPD, arXiv 2603.04887, any sequence may be missing.

This file owns the parameter names, and the names are the contract: ``enc.<sequence>.*`` and
``dec.*`` are shared, ``calib.*`` and ``aux.*`` never leave their site.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyclinic.errors import StudyError
from polyclinic.models.scan.calibration import CrossAttention
from polyclinic.models.scan.decoder import AuxiliaryDecoder, FusionDecoder
from polyclinic.models.scan.encoder import SequenceEncoder, level_sizes
from polyclinic.models.scan.settings import ScanNetwork, least_edge


@dataclass(frozen=True)
class ScanOutput:
    """What a forward pass gives, for B patients and R classes; of the levels, level 1 first.

    A network of 2 dimensions gives an axis of length 1 at the end of every tensor, as it takes it.

    Attributes:
        probability: softmax of the fused decoder, (B, R, I, J, K).
        regions: class probabilities that steer the fusion of each level, upsampled to the input;
            (B, R, I, J, K).
        auxiliary: class probabilities from one sequence alone, by sequence; (B, R, I, J, K), all 0
            for patients without it. Only in training mode: nothing else needs them.
        features: fused features of each level, before the calibration of that level,
            (B, C_l, I_l, J_l, K_l): what anchors are means of, and what queries them.
    """

    probability: Tensor
    regions: tuple[Tensor, ...]
    auxiliary: dict[str, Tensor]
    features: tuple[Tensor, ...]


class ScanModel(nn.Module):
    """Encoders for the sequences ``held``, a decoder with a slot for each of ``sequences``.

    Guarantees:
    - The output does not depend on what stands in a sequence where ``present`` is False.
    - A patient's output does not depend on the other patients of a batch.
    - A patient without any sequence gets a finite output.
    - Without a known anchor the calibration changes nothing.
    """

    def __init__(
        self,
        settings: ScanNetwork,
        *,
        classes: int,
        sequences: tuple[str, ...],
        held: tuple[str, ...],
        calibrated: bool,
        auxiliary: bool,
    ) -> None:
        super().__init__()
        _require(classes >= 2, "two classes or more, the background included", str(classes))
        _require(bool(sequences), "at least one sequence", "none")
        _require(set(held) <= set(sequences), "held sequences of the study", "another one")
        taken = sorted(m for m in sequences if hasattr(nn.ModuleDict, m))
        _require(not taken, "sequences that torch has no other use for", f"'{''.join(taken[:1])}'")
        self.settings, self.sequences = settings, sequences
        levels = zip(settings.channels, settings.heads_of_levels, strict=True)
        self.enc = nn.ModuleDict(
            {m: SequenceEncoder(settings.dims, settings.channels) for m in held}
        )
        self.dec = FusionDecoder(settings, classes, len(sequences))
        self.calib = (
            nn.ModuleDict(
                {
                    str(level): CrossAttention(
                        channels,
                        heads,
                        dropout=settings.calibration_dropout,
                        residual=settings.residual,
                        chunk=settings.chunk,
                    )
                    for level, (channels, heads) in enumerate(levels, start=1)
                }
            )
            if calibrated
            else None
        )
        self.aux = AuxiliaryDecoder(settings, classes) if auxiliary else None

    def forward(
        self,
        inputs: dict[str, Tensor],
        present: dict[str, Tensor],
        anchors: tuple[Tensor, ...] | None = None,
        known: Tensor | None = None,
    ) -> ScanOutput:
        """Segment a batch.

        Args:
            inputs: by sequence, (B, 1, I, J, K); K = 1 for a network of 2 dimensions.
            present: by sequence, who has it, (B,) bool. A sequence that is not in it, not in
                ``inputs`` or not held is absent for everybody.
            anchors: of levels 1, 2, ..., (A, C_l) each.
            known: which anchors there are, (A,) bool; None is all.

        Raises:
            ValueError: the crop is smaller than ``least_edge``, or not a slice where it must be.
        """
        batch = next(iter(inputs.values()))
        sizes = self._sizes(batch)
        rows, encoded = self._encode(inputs, present)
        features = self._slots(rows, encoded, batch, sizes)
        usable = anchors is not None and (known is None or bool(known.any()))

        def calibrate(level: int, z: Tensor) -> Tensor:
            if self.calib is None or anchors is None or not usable:
                return z
            out: Tensor = self.calib[str(level)](z, anchors[level - 1], known)
            return out

        decoded = self.dec(features, calibrate)
        auxiliary: dict[str, Tensor] = {}
        if self.aux is not None and self.training:
            for m, levels in encoded.items():
                auxiliary[m] = _spread(self.aux(levels), rows[m], batch.shape[0])
        return ScanOutput(
            self._back(decoded.probability),
            tuple(self._back(p) for p in decoded.regions),
            {m: self._back(p) for m, p in auxiliary.items()},
            tuple(self._back(z) for z in decoded.features),
        )

    def _encode(
        self, inputs: dict[str, Tensor], present: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
        """By sequence that somebody has: the rows of who does, and their features by level.

        Other rows are not looked at: they cost nothing, and a NaN in them stays where it is.
        """
        rows: dict[str, Tensor] = {}
        encoded: dict[str, tuple[Tensor, ...]] = {}
        for m, encoder in self.enc.items():
            if m not in inputs or m not in present:
                continue
            there, x = torch.nonzero(present[m]).flatten(), self._front(inputs[m])
            if there.numel():
                rows[m] = there
                encoded[m] = encoder(x if there.numel() == x.shape[0] else x[there])
        return rows, encoded

    def _slots(
        self,
        rows: dict[str, Tensor],
        encoded: dict[str, tuple[Tensor, ...]],
        batch: Tensor,
        sizes: list[tuple[int, ...]],
    ) -> list[Tensor]:
        """Features of all patients and sequences by level, (B, K, C_l, *S_l); 0 where absent."""
        count = batch.shape[0]
        some = next((levels[0] for levels in encoded.values()), batch)
        features = []
        for level, (channels, size) in enumerate(zip(self.settings.channels, sizes, strict=True)):
            nothing = some.new_zeros((count, channels, *size))
            slots = [
                _spread(encoded[m][level], rows[m], count) if m in encoded else nothing
                for m in self.sequences
            ]
            features.append(torch.stack(slots, dim=1))
        return features

    def _sizes(self, batch: Tensor) -> list[tuple[int, ...]]:
        sizes = level_sizes(self._front(batch).shape[2:], self.settings.levels)
        if math.prod(sizes[-1]) < 2:
            least = least_edge(self.settings)
            raise ValueError(f"Expected edges of at least {least} voxels, got {sizes[0]}.")
        return sizes

    def _front(self, x: Tensor) -> Tensor:
        if self.settings.dims == 3:
            return x
        if x.shape[-1] != 1:
            raise ValueError(f"Expected slices (B, 1, I, J, 1), got a last axis of {x.shape[-1]}.")
        return x.squeeze(-1)

    def _back(self, x: Tensor) -> Tensor:
        return x if self.settings.dims == 3 else x.unsqueeze(-1)


def _spread(part: Tensor, rows: Tensor, count: int) -> Tensor:
    """``part`` at ``rows`` of ``count`` rows, the others 0."""
    if rows.numel() == count:
        return part
    return part.new_zeros((count, *part.shape[1:])).index_copy(0, rows, part)


def _require(holds: bool, expected: str, got: str) -> None:
    if not holds:
        raise StudyError(expected=expected, got=got, remedy="correct the study or the job")
