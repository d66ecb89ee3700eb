"""The recipe of a segmentation: its limits, and what decides the kept voxels."""

import pytest

from marked import a_study
from polyclinic.data.scan_recipe import ScanRecipe, recipe_of
from polyclinic.data.volume_recipe import MAX_SEQUENCES
from polyclinic.errors import StudyError
from polyclinic.study import parse_study


def test_the_defaults_are_the_papers() -> None:
    recipe = ScanRecipe()
    assert recipe.size == (80, 80, 80)
    assert recipe.spacing_mm == (1.0, 1.0, 1.0)
    assert (recipe.crops, recipe.foreground, recipe.augment) == (1, 0.0, None)
    assert not recipe.flat


@pytest.mark.parametrize(("head", "flat"), [(1, True), (8, False)])
def test_the_third_length_may_be_one_slice(head: int, flat: bool) -> None:
    assert recipe_of(a_study(recipe={"size": [16, 16, head]})).flat == flat


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        ({"size": [1, 16, 16]}, "size.0"),
        ({"size": [16, 16, 2]}, "size.2"),
        ({"size": [16, 16, 257]}, "size.2"),
        ({"spacing_mm": [0.01, 1, 1]}, "spacing_mm.0"),
        ({"orientation": "LPS"}, "orientation"),
        ({"crops": 0}, "crops"),
        ({"crops": 65}, "crops"),
        ({"foreground": 1.1}, "foreground"),
        ({"augment": {"rotate_degrees": 90}}, "augment.rotate_degrees"),
        ({"augment": {"noise": 1}}, "augment.noise"),
        ({"folder": "/etc"}, "folder"),
    ],
)
def test_a_recipe_beyond_its_limits_is_refused(recipe: dict[str, object], what: str) -> None:
    with pytest.raises(StudyError, match=f"recipe setting '{what}"):
        recipe_of(a_study(recipe=recipe))


def test_what_is_drawn_for_training_leaves_the_kept_voxels_alone() -> None:
    plain = recipe_of(a_study())
    drawn = {"crops": 5, "foreground": 0.5, "augment": {"flip": True}}
    assert recipe_of(a_study(recipe=drawn)).decoding == plain.decoding
    assert recipe_of(a_study(recipe={"box": True})).decoding != plain.decoding


def test_more_sequences_than_memory_is_planned_for_are_refused() -> None:
    many = {f"s{i}": {"kind": "volume", "features": ["x"]} for i in range(MAX_SEQUENCES + 1)}
    with pytest.raises(StudyError, match=f"at most {MAX_SEQUENCES} sequences"):
        recipe_of(a_study(modalities=many))


def test_a_study_that_segments_nothing_has_no_recipe() -> None:
    task = {"label": "outcome", "classes": ["no", "yes"]}
    other = {"name": "x", "task": task, "modalities": {"v": {"kind": "vector", "features": ["a"]}}}
    with pytest.raises(StudyError, match="a study that segments"):
        recipe_of(parse_study(other))
