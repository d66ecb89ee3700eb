"""Pictures: comparable with one another, and never cut."""

from collections.abc import Callable

import pytest
from matplotlib.figure import Figure

from polyclinic.evaluation import pictures
from polyclinic.evaluation.pictures import auroc_limits


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([], (0.5, 1.0)),
        ([0.7, 0.99], (0.5, 1.0)),
        ([0.5], (0.5, 1.0)),
        ([0.43, 0.9], (0.4, 1.0)),
        ([-0.2], (0.0, 1.0)),
        ([float("nan"), 0.8], (0.5, 1.0)),
    ],
)
def test_auroc_is_drawn_from_a_coins_toss_to_one_and_lower_where_a_value_is(values, limits):
    assert auroc_limits(values) == limits


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], str]) -> Figure:
    """The figure that is drawn, with its parts where they will be."""
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "_address", lambda figure: figures.append(figure) or "")
    draw()
    figures[0].draw_without_rendering()
    return figures[0]


@pytest.mark.parametrize("methods", [1, 5, 6, 12])
def test_the_methods_of_a_comparison_have_room_whatever_their_number(
    monkeypatch: pytest.MonkeyPatch, methods: int
) -> None:
    names = [f"scan_fedavg_zero_filled_{i}" for i in range(methods)]
    rows = [(name, site, 0.5, 0.1) for name in names for site in ("h1", "h2", "du_anchor")]
    figure = drawn(monkeypatch, lambda: pictures.grouped(rows, "Dice", (0.0, 1.0)))
    (axes,) = figure.axes
    page, legend = figure.bbox, axes.get_legend().get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= page.width
    assert legend.y1 <= page.height
    assert axes.bbox.width > page.width / 3
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert (names[0] in " ".join(shown)) == (methods > 5)


def test_a_run_of_one_round_has_whole_rounds_on_its_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, lambda: pictures.lines({"h1": [(1, 0.5)]}, ["h1"], "Dice"))
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
