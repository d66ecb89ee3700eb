"""From a film to a picture of the study's size."""

import numpy as np
import pytest
import torch
from monai.transforms import Resize

from polyclinic.data.framing import (
    Augment,
    ImageRecipe,
    augmentation,
    content,
    framed,
    grey,
    pack,
    scaled_size,
    unpack,
)
from polyclinic.data.recipe import parse_recipe
from polyclinic.errors import StudyError


def recipe(**settings: object) -> ImageRecipe:
    return parse_recipe(ImageRecipe, "cxr", {"size": [32, 48], **settings})


def film(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width), dtype=np.float32)


@pytest.mark.parametrize(
    ("fit", "native", "scaled", "place"),
    [
        # 64 x 64 into 32 x 48: half the size, and 8 columns of padding on each side
        ("pad", (64, 64), (32, 32), (slice(0, 32), slice(8, 40))),
        # 640 x 1280: a width of 48 is the limit, 24 rows are left
        ("pad", (640, 1280), (24, 48), (slice(4, 28), slice(0, 48))),
        ("crop", (64, 64), (48, 48), (slice(0, 32), slice(0, 48))),
        ("stretch", (64, 64), (32, 48), (slice(0, 32), slice(0, 48))),
        # 33 x 49 shrinks to the 48 columns and to 32.3 rows; 31 x 48 leaves an odd row
        ("pad", (33, 49), (32, 48), (slice(0, 32), slice(0, 48))),
        ("pad", (31, 48), (31, 48), (slice(0, 31), slice(0, 48))),
    ],
)
def test_proportions_are_kept_by_padding_or_cropping_and_given_up_by_stretching(
    fit: str, native: tuple[int, int], scaled: tuple[int, int], place: tuple[slice, slice]
) -> None:
    chosen = recipe(fit=fit)
    assert scaled_size(native, chosen) == scaled
    assert content(native, chosen) == place

    bright = framed(np.ones(native, np.float32), chosen)
    shown = np.zeros((32, 48), bool)
    shown[place] = True
    np.testing.assert_array_equal(bright == 255, shown)


def test_a_smaller_picture_is_the_mean_over_areas() -> None:
    pixels = film(64, 96)
    expected = pixels.reshape(32, 2, 48, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(framed(pixels, recipe()), np.rint(expected * 255))


def test_stripes_finer_than_a_pixel_leave_no_pattern() -> None:
    stripes = np.zeros((320, 480), np.float32)
    stripes[:, ::2] = 1.0
    found = framed(stripes, recipe())
    assert found.min() == found.max() == 128  # half of 255, rounded


def test_a_larger_picture_is_interpolated_as_monai_does() -> None:
    pixels = film(8, 12)
    expected = Resize((32, 48), mode="bilinear")(torch.from_numpy(pixels)[None])[0].numpy()
    np.testing.assert_array_equal(framed(pixels, recipe()), np.rint(expected * 255))


def test_a_very_long_film_keeps_a_pixel() -> None:
    assert framed(film(1000, 1), recipe()).shape == (32, 48)


def test_a_picture_and_the_size_of_its_film_are_kept_together() -> None:
    picture = framed(film(700, 300), recipe())
    packed = pack(picture, (700, 300))
    again, native = unpack(packed, recipe())
    np.testing.assert_array_equal(again, picture)
    assert (native, packed.dtype, packed.shape) == ((700, 300), np.uint8, (8 + 32 * 48,))


def test_each_film_has_mean_0_and_spread_1_and_padding_is_0() -> None:
    chosen, pixels = recipe(), film(64, 64)
    values = grey(framed(pixels, chosen), (64, 64), chosen)
    place = content((64, 64), chosen)
    torch.testing.assert_close(values[place].mean(), torch.tensor(0.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(values[place].std(correction=0), torch.tensor(1.0))
    values[place] = 0
    assert not values.any()

    darker = grey(framed(pixels * 0.5 + 0.25, chosen), (64, 64), chosen)
    same = grey(framed(pixels, chosen), (64, 64), chosen)
    torch.testing.assert_close(darker, same, rtol=0, atol=0.1)  # 8 bits of half the range


def test_with_range_grey_values_stay_in_0_to_1() -> None:
    chosen = recipe(normalise="range")
    values = grey(framed(film(64, 64), chosen), (64, 64), chosen)
    assert 0.0 <= float(values.min()) < float(values.max()) <= 1.0


def test_a_film_of_nearly_one_brightness_stays_finite() -> None:
    values = grey(np.full((32, 48), 7, np.uint8), (32, 48), recipe())
    assert torch.isfinite(values).all()


def test_augmentation_is_drawn_from_its_seed_and_moves_the_picture() -> None:
    settings = Augment(rotate_degrees=5, shift=0.05, scale=0.1, flip=True, intensity=0.2)
    picture = torch.from_numpy(film(32, 48))[None]

    def once(seed: int) -> torch.Tensor:
        random = augmentation(settings, (32, 48))
        random.set_random_state(seed=seed)
        return random(picture).as_tensor()

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    assert once(1).shape == picture.shape


def test_without_settings_nothing_is_changed() -> None:
    picture = torch.from_numpy(film(32, 48))[None]
    assert torch.equal(torch.as_tensor(augmentation(Augment(), (32, 48))(picture)), picture)


def test_flip_exchanges_left_and_right_only() -> None:
    picture = torch.from_numpy(film(32, 48))[None]
    random = augmentation(Augment(flip=True), (32, 48))
    seen = set()
    for seed in range(20):
        random.set_random_state(seed=seed)
        found = torch.as_tensor(random(picture))
        seen.add((torch.equal(found, picture), torch.equal(found, picture.flip(2))))
    assert seen == {(True, False), (False, True)}


@pytest.mark.parametrize(
    "payload",
    [
        {"size": [1025, 224]},
        {"size": [8, 224]},
        {"size": [224]},
        {"size": [224.5, 224]},
        {"size": ["224", "224"]},
        {"fit": "cover"},
        {"normalise": "site"},
        {"augment": {"rotate_degrees": 90}},
        {"augment": {"shift": float("nan")}},
        {"augment": {"noise": 1}},
        {"path": "/etc"},
    ],
)
def test_a_recipe_beyond_its_limits_is_refused(payload: dict[str, object]) -> None:
    with pytest.raises(StudyError):
        parse_recipe(ImageRecipe, "cxr", payload)
