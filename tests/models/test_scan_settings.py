"""Settings of the segmentation network."""

import pytest

from polyclinic.errors import StudyError
from polyclinic.models.scan import least_edge, parse_network


def test_the_defaults_are_the_authors() -> None:
    settings = parse_network({})
    assert settings.dims == 3
    assert settings.channels == (16, 32, 64, 128)
    assert settings.heads_of_levels == (4, 8, 8, 8)
    assert not settings.residual


def test_heads_of_the_paper_can_be_asked_for() -> None:
    assert parse_network({"heads": [8, 8, 8, 8]}).heads_of_levels == (8, 8, 8, 8)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({"dims": 4}, "dims"),
        ({"width": 6}, "width"),
        ({"width": 1024}, "width"),
        ({"levels": 9}, "levels"),
        ({"levels": 3, "heads": [4, 4]}, "heads"),
        ({"levels": 2, "heads": [4, 400]}, "heads"),
        ({"calibration_dropout": 1.0}, "calibration_dropout"),
        ({"chunk": 1 << 40}, "chunk"),
        ({"classes": 3}, "classes"),
    ],
)
def test_a_wrong_setting_is_named(payload: dict[str, object], named: str) -> None:
    with pytest.raises(StudyError, match=named):
        parse_network(payload)


def test_the_least_edge_leaves_two_voxels_at_the_lowest_level() -> None:
    assert least_edge(parse_network({"levels": 2})) == 3
    assert least_edge(parse_network({})) == 9
