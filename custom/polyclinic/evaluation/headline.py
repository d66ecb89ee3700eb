"""The one score that methods are compared by: AUROC, or of a segmentation Dice."""

from collections.abc import Iterable

AUROC, DICE = "auroc", "dice"
WORDS = {AUROC: "AUROC", DICE: "Dice"}


def headline_of(metrics: Iterable[str]) -> str:
    """``dice`` where it is among the names of metrics, else ``auroc``."""
    return DICE if DICE in set(metrics) else AUROC
