"""The fused and the auxiliary decoder."""

import torch
from torch import Tensor

from polyclinic.models.scan.decoder import AuxiliaryDecoder, FusionDecoder
from polyclinic.models.scan.settings import ScanNetwork

SETTINGS = ScanNetwork(dims=2, width=4, levels=3)
SLOTS, CLASSES, EDGE = 2, 3, 10
SIZES = (10, 5, 3)


def features() -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(2, SLOTS, c, n, n, requires_grad=True)
        for c, n in zip(SETTINGS.channels, SIZES, strict=True)
    ]


def decoder() -> FusionDecoder:
    torch.manual_seed(1)
    return FusionDecoder(SETTINGS, CLASSES, SLOTS)


def test_every_level_is_calibrated_from_the_lowest_and_what_it_gives_is_used() -> None:
    seen: list[tuple[int, Tensor]] = []

    def calibrate(level: int, z: Tensor) -> Tensor:
        seen.append((level, z))
        return torch.zeros_like(z)

    decoded = decoder()(features(), calibrate)
    assert [level for level, _ in seen] == [3, 2, 1]
    assert all(z is decoded.features[level - 1] for level, z in seen)
    # Level 1 became 0 everywhere: nothing of the picture is left to tell its places apart.
    p = decoded.probability.flatten(2)
    torch.testing.assert_close(p, p[:, :, :1].expand_as(p))


def test_region_probabilities_do_not_learn_from_the_fusion() -> None:
    module = decoder()
    decoded = module(features(), lambda _, z: z)
    decoded.features[2].sum().backward()  # level 3: the fusion alone
    assert all(w.grad is None for w in module.region["3"].parameters())
    assert all(w.grad is not None for w in module.fuse["3"].parameters())


def test_everything_comes_at_the_size_of_the_input() -> None:
    decoded = decoder()(features(), lambda _, z: z)
    for p in (decoded.probability, *decoded.regions):
        assert p.shape == (2, CLASSES, EDGE, EDGE)
        torch.testing.assert_close(p.sum(1), torch.ones(2, EDGE, EDGE))
    assert [tuple(z.shape) for z in decoded.features] == [
        (2, 4, 10, 10),
        (2, 8, 5, 5),
        (2, 16, 3, 3),
    ]


def test_the_auxiliary_decoder_uses_every_level_of_one_sequence() -> None:
    levels = features()
    p = AuxiliaryDecoder(SETTINGS, CLASSES)([level[:, 0] for level in levels])
    assert p.shape == (2, CLASSES, EDGE, EDGE)
    p[:, 0].square().sum().backward()
    for level in levels:
        assert level.grad is not None
        assert level.grad[:, 0].any()
        assert not level.grad[:, 1].any()
