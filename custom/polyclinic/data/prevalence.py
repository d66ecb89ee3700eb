"""How many patients of a cohort have each class, or each side of each label, by split."""

from typing import Any

from polyclinic.data.batch import Patients, SplitName
from polyclinic.data.labels import different
from polyclinic.data.selection import Selection
from polyclinic.data.split import SPLIT_NAMES
from polyclinic.data.suppression import suppressed

SIDES = ("no", "yes")
Shown = dict[str, int | str]


def prevalence(selection: Selection) -> dict[str, dict[str, Any]]:
    """Patients by split and class; by split, label and side (no, yes, unknown) of several labels.
    By split alone where the class of every voxel is asked for.

    Unknown are the patients of whom no record has the label known. Counts below the site's
    smallest cell are not shown.
    """
    return {s: _of_split(selection, s) for s in SPLIT_NAMES if selection.size(s)}


def _of_split(selection: Selection, split: SplitName) -> dict[str, Any]:
    task, least = selection.study.task, selection.minimum_cell
    people = selection.people(split).tolist()
    if task.segments:
        return dict(suppressed({"patients": people[0]}, least))
    if not task.multi_label:
        return dict(suppressed(dict(zip(task.names, people, strict=True)), least))
    labels, owners = selection.labels(split), selection.owners_of(split)
    shown: dict[str, Shown] = {}
    for i, name in enumerate(task.names):
        unknown = selection.distinct(split) - different(owners[~labels[:, i].isnan()])
        counts = dict(zip(SIDES, people[i], strict=True))
        # Of a label that is known of everybody there is no third group to hide another behind.
        shown[name] = suppressed(counts | ({"unknown": unknown} if unknown else {}), least)
    return shown


def lacking(patients: Patients) -> list[str]:
    """Classes that no training patient has, or sides of labels; a label nobody knows is one."""
    task = patients.study.task
    people = patients.people("train").tolist()
    if task.segments:  # which patients have which class, masks tell by themselves
        return []
    if not task.multi_label:
        return [name for name, n in zip(task.names, people, strict=True) if not n]
    found = []
    for name, sides in zip(task.names, people, strict=True):
        if not any(sides):
            found.append(f"{name} (known of nobody)")
        found += [f"{name} {s}" for s, n in zip(SIDES, sides, strict=True) if any(sides) and not n]
    return found


def worded(counts: dict[str, Any]) -> str:
    """The counts of one split in one line."""
    if not any(isinstance(v, dict) for v in counts.values()):
        return ", ".join(f"{c} {n}" for c, n in counts.items())
    return "; ".join(f"{label}: {worded(sides)}" for label, sides in counts.items())
