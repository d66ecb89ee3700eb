"""Oriented gradients, on films whose gradients are known."""

import math

import pytest
import torch
from torch import Tensor, nn

from polyclinic import models
from polyclinic.errors import StudyError
from polyclinic.models.hog import EPSILON, LARGEST, Hog, histograms, hog, hog_width
from polyclinic.study import Modality
from polyclinic.training import initialise

SIZE = (16, 16)


def ramp(degrees: float, slope: float = 1.0) -> Tensor:
    """A film (1, 16, 16) that grows by ``slope`` a pixel in this direction, x to the right."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    angle = math.radians(degrees)
    return slope * (x * math.cos(angle) + y * math.sin(angle))[None]


def noise(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, size, size, generator=torch.Generator().manual_seed(1))


def encoder(**settings: object) -> nn.Module:
    recipe = {"size": [32, 32]}
    how = {"network": "hog", "cell": 8} | settings
    return models.build("cxr", Modality(kind="image", recipe=recipe, encoder=how), 5)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (0, {0: 1.0}),
        (20, {1: 1.0}),
        (90, {4: 0.5, 5: 0.5}),  # halfway from 80° to 100°
        (25, {1: 0.75, 2: 0.25}),
        (175, {8: 0.25, 0: 0.75}),  # the last bin's neighbour is the first
        (200, {1: 1.0}),  # half a turn on: the same orientation
    ],
)
def test_a_ramp_falls_into_the_two_bins_nearest_to_its_angle(
    degrees: float, expected: dict[int, float]
) -> None:
    found = histograms(ramp(degrees), cell=4, orientations=9)

    assert found.shape == (1, 9, 4, 4)
    # Two pixels apart the ramp differs by 2; cells away from the edge hold no other gradient.
    wanted = torch.zeros(9)
    for i, share in expected.items():
        wanted[i] = 2 * share
    torch.testing.assert_close(found[0, :, 1, 1], wanted, atol=1e-4, rtol=1e-4)


def test_the_edge_of_a_film_has_no_gradient_of_its_own() -> None:
    assert (histograms(torch.full((1, 8, 8), 7.0), 4, 9) == 0).all()


def test_a_gradient_counts_in_the_cell_where_it_lies() -> None:
    film = torch.zeros(1, 8, 8)
    film[0, :, 6:] = 1.0  # a step to the right of column 5: columns 5 and 6 see it
    found = histograms(film, 4, 9)

    assert (found[0, :, :, 0] == 0).all()
    # Each row of a right cell has two pixels of strength 1, of four.
    torch.testing.assert_close(found[0, 0, :, 1], torch.full((2,), 0.5))


def test_blocks_are_clipped_between_two_normalisations() -> None:
    found = hog(ramp(0), 4, 9).reshape(3, 3, 4, 9)
    # In the middle: one entry of .5 for each of four cells, clipped to .2, then .5 again.
    middle = found[1, 1]
    torch.testing.assert_close(middle[:, 0], torch.full((4,), 0.5), atol=1e-2, rtol=0)
    assert (middle[:, 1:] == 0).all()


def test_no_orientation_rules_a_block() -> None:
    # One block of four cells, of which the first has a gradient ten times as strong.
    film = ramp(0)[:, :8, :8].clone()
    film[:, :4, :4] *= 10
    found = hog(film, 4, 9)
    raw = histograms(film, 4, 9)[0].permute(1, 2, 0).reshape(-1)  # cell, then orientation

    # As published: length 1, no entry above .2, length 1.
    once = (raw / raw.norm()).clamp(max=LARGEST)
    torch.testing.assert_close(found[0], once / once.norm(), atol=1e-3, rtol=0)
    assert float(raw.max() / raw[9]) > float(found.max() / found[0, 9])


@pytest.mark.parametrize(("size", "cell"), [((128, 128), 16), ((64, 32), 8)])
def test_the_length_is_that_of_the_blocks(size: tuple[int, int], cell: int) -> None:
    rows, columns = size[0] // cell, size[1] // cell
    by_hand = (rows - 1) * (columns - 1) * 4 * 9
    assert hog_width(size, cell, 9) == by_hand
    assert hog(torch.randn(2, *size), cell, 9).shape == (2, by_hand)


def test_brightness_and_contrast_do_not_matter() -> None:
    films = noise()
    torch.testing.assert_close(hog(films + 3, 8, 9), hog(films, 8, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(hog(films * 3, 8, 9), hog(films, 8, 9), atol=1e-3, rtol=0)
    torch.testing.assert_close(hog(-films, 8, 9), hog(films, 8, 9), atol=1e-5, rtol=0)


def test_a_blank_film_is_described_by_zeros_and_stays_finite() -> None:
    assert (hog(torch.zeros(1, *SIZE), 4, 9) == 0).all()
    faint = hog(ramp(0, slope=EPSILON / 1e6), 4, 9)
    assert float(faint.abs().max()) < 0.01
    assert torch.isfinite(Hog(4, 9)(torch.zeros(1, 1, *SIZE))).all()


def test_a_shift_by_a_cell_shifts_the_blocks() -> None:
    film = torch.zeros(1, 32, 32)
    film[0, 8:24, 8:16] = noise(1, 16)[0, :, :8]
    there = hog(film, 8, 9).reshape(3, 3, 36)
    moved = hog(film.roll(8, dims=2), 8, 9).reshape(3, 3, 36)
    torch.testing.assert_close(moved[:, 1:], there[:, :-1])


def test_entries_have_mean_zero_and_spread_one_beside_the_means_of_other_planes() -> None:
    x = torch.cat([noise()[:, None], torch.full((3, 1, 32, 32), 2.5)], dim=1)
    found = Hog(8, 9)(x)
    gradients, plane = found[:, :-1], found[:, -1]

    torch.testing.assert_close(gradients.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients.std(1, correction=0), torch.ones(3), atol=5e-3, rtol=0)
    torch.testing.assert_close(plane, torch.full((3,), 2.5))


def test_only_the_linear_part_learns_and_it_is_drawn_from_the_seed() -> None:
    model = encoder()
    assert sorted(n for n, _ in model.named_parameters()) == [
        "norm.bias",
        "norm.weight",
        "out.bias",
        "out.weight",
    ]
    assert not list(model.buffers())
    films = noise()[:, None].requires_grad_()
    out = model(films, torch.ones(3, 1, dtype=torch.bool))
    out.square().sum().backward()
    assert films.grad is None
    assert all(p.grad is not None for p in model.parameters())

    drawn = []
    for _ in range(2):
        whole = nn.ModuleDict({"enc": encoder()})
        initialise(whole, ["enc"], 3)
        drawn.append(whole["enc"].get_parameter("out.weight"))
    assert torch.equal(*drawn)


def test_a_gradient_for_every_patient_can_be_computed() -> None:
    model = encoder()
    weights = {n: p.detach() for n, p in model.named_parameters()}

    def loss(given: dict[str, Tensor], film: Tensor) -> Tensor:
        there = torch.ones(1, 1, dtype=torch.bool)
        out = torch.func.functional_call(model, given, (film[None, None], there))
        return (out * torch.arange(5.0)).sum()

    films = noise()
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, films)
    for i, film in enumerate(films):
        alone = torch.func.grad(loss)(weights, film)
        torch.testing.assert_close(each["out.weight"][i], alone["out.weight"])


@pytest.mark.parametrize(
    "settings",
    [
        {"cell": 12},  # does not divide 32
        {"cell": 32},  # one cell is no block
        {"cell": 4, "orientations": 36, "size": 256},  # 63 x 63 x 144 gradients
        {"weights": "gradients", "weights_sha256": "0" * 64},
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, object]) -> None:
    given = dict(settings)
    size = given.pop("size", 32)
    how = {"network": "hog", "cell": 8} | given
    film = Modality(kind="image", recipe={"size": [size, size]}, encoder=how)
    with pytest.raises(StudyError):
        models.build("cxr", film, 5)
