"""Pictures of one patient's scan with the predicted and the true classes; they stay at the site."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyclinic.errors import StudyError
from polyclinic.evaluation.pictures import COLOURS, INK

Volume = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer]

SLICES = 3
PNG = b"\x89PNG\r\n\x1a\n"
# Of one page: a browser still opens it.
MAX_PICTURES = 200
MAX_BYTES = 64 << 20


def overlay(
    scan: Volume,
    predicted: Classes,
    truth: Classes | None,
    spacing_mm: tuple[float, float, float],
    classes: tuple[str, ...],
) -> bytes:
    """A PNG: three slices of a scan, and below them what was predicted (filled) and what is true
    (outlined): the two with most of what is true and the one with most errors, called so; where
    nothing is known, those with most of what was predicted.

    Args:
        scan: of one sequence, (I, J, K) to the right, the front and the head.
        predicted, truth: class of each voxel; 0 is the background.
    """
    from matplotlib.figure import Figure  # a second of import time, for pictures only

    chosen, worst = shown_slices(predicted, truth)
    figure = Figure(figsize=(2.6 * len(chosen), 5.6), layout="constrained", facecolor="black")
    aspect = spacing_mm[1] / spacing_mm[0]
    low, high = np.percentile(scan, (1.0, 99.5))
    for column, k in enumerate(chosen):
        for row in range(2):
            axes = figure.add_subplot(2, len(chosen), row * len(chosen) + column + 1)
            axes.imshow(_upright(scan[:, :, k]), cmap="gray", vmin=low, vmax=high, aspect=aspect)
            axes.set_axis_off()
            if row:
                _mark(axes, predicted[:, :, k], None if truth is None else truth[:, :, k])
            elif not column:
                axes.text(0.01, 0.5, "R", color="white", size=8, transform=axes.transAxes)
            if not row:
                errors = ", most errors" if k == worst else ""
                title = f"slice {k + 1} of {scan.shape[2]}{errors}"
                axes.set_title(title, color="white", size=8)
    _legend(figure, classes, truth is not None)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="black", metadata={"Software": None})
    return buffer.getvalue()


def shown_slices(predicted: Classes, truth: Classes | None) -> tuple[list[int], int]:
    """Slices to show, in order, and the one with most voxels of another class than they are; -1
    where nothing is known, or nothing wrong."""
    if truth is None:
        return best_slices(predicted > 0), -1
    marked = truth > 0 if (truth > 0).any() else predicted > 0
    best, wrong = best_slices(marked), (predicted != truth).sum(axis=(0, 1))
    worst = int(wrong.argmax())
    if not wrong[worst]:
        return best, -1
    if worst not in best:
        # Without it a picture would only show what is easy.
        sizes = marked.sum(axis=(0, 1))
        best = sorted([*sorted(best, key=lambda k: -sizes[k])[: SLICES - 1], worst])
    return best, worst


def best_slices(marked: npt.NDArray[np.bool_]) -> list[int]:
    """The slices (last axis) with most that is marked, apart from one another, in order.

    Each is at least a quarter of the marked length from the others, so that three slices of a
    large lesion do not show the same. Where nothing is marked, those that cut the scan in four.
    """
    depth = marked.shape[2]
    sizes = marked.sum(axis=(0, 1))
    there = np.flatnonzero(sizes)
    if not there.size:
        return sorted(
            {round(depth * (n + 1) / (SLICES + 1)) for n in range(SLICES)} & set(range(depth))
        )
    apart = max(1, int(there[-1] - there[0] + 1) // 4)
    chosen: list[int] = []
    for k in np.argsort(-sizes, kind="stable").tolist():
        if sizes[k] and len(chosen) < SLICES and all(abs(k - c) >= apart for c in chosen):
            chosen.append(k)
    return sorted(chosen)


def embedded(folder: Path) -> dict[str, str]:
    """The PNG files of a folder as data addresses, by their names without the ending.

    Raises:
        StudyError: there is none, one cannot be read or is no PNG, or they are too many or too
            large for a page.
    """
    paths = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if not 0 < len(paths) <= MAX_PICTURES:
        raise _unfit(f"{len(paths)} picture(s)")
    try:
        if sum(path.stat().st_size for path in paths) > MAX_BYTES:
            raise _unfit(f"more than {MAX_BYTES >> 20} MiB")
        found = {path.stem: path.read_bytes() for path in paths}
    except OSError as error:
        raise _unfit(type(error).__name__) from None
    if not all(content.startswith(PNG) for content in found.values()):
        raise _unfit("files that are no PNG")
    return {
        name: f"data:image/png;base64,{base64.b64encode(content).decode()}"
        for name, content in found.items()
    }


def _unfit(got: str) -> StudyError:
    return StudyError(
        expected=f"a folder of at most {MAX_PICTURES} pictures that "
        "'polyclinic run predict --overlays' wrote",
        got=got,
        remedy="name another folder, or move some of the pictures out of it",
    )


def _upright(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A plane (I, J) as radiologists look at it: the front up, the patient's right on the left."""
    return plane[::-1, ::-1].T


def _mark(axes: Any, predicted: Classes, truth: Classes | None) -> None:
    """Fill what was predicted and outline what is true, a colour for each class."""
    from matplotlib.colors import to_rgba

    shown = _upright(predicted)
    fill = np.zeros((*shown.shape, 4))
    for c in np.unique(shown[shown > 0]).tolist():
        fill[shown == c] = to_rgba(_colour(c), 0.45)
    axes.imshow(fill, aspect=axes.get_aspect(), interpolation="nearest")
    if truth is None:
        return
    true = _upright(truth)
    for c in np.unique(true[true > 0]).tolist():
        axes.contour(true == c, levels=[0.5], colors=[_colour(c)], linewidths=1.1)


def _legend(figure: Any, classes: tuple[str, ...], with_truth: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [
        Patch(color=_colour(c), label=name) for c, name in enumerate(classes) if c
    ]
    grey = "#cccccc"
    entries.append(Patch(facecolor=grey, alpha=0.5, label="filled: predicted"))
    if with_truth:
        entries.append(Line2D([], [], color=grey, linewidth=1.1, label="outlined: true"))
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=min(len(entries), 6),
        frameon=False,
        fontsize=7.5,
        labelcolor="white",
    )


def _colour(index: int) -> str:
    """Of a class; the background has none."""
    colours = [c for c in COLOURS if c != INK]
    return colours[(index - 1) % len(colours)]
