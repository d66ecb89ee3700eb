"""How much of a mean one site may be.

Weights are numbers of patients, which sites tell and nobody can check. A job may say with
``most_share`` how much one site is believed to be; the default believes the census.
"""

import math
from collections.abc import Mapping


def ceiling(counts: Mapping[str, float], share: float) -> float:
    """The weight c at which the largest sites are cut off, so that none is more than ``share``.

    With n_(1) >= n_(2) >= ... and the first j sites cut off,

        c = share (j c + sum_{i>j} n_(i)),   hence   c = share sum_{i>j} n_(i) / (1 - j share)

    for the smallest j with n_(j+1) <= c. Among sites too few for ``share`` (1 / sites or less) the
    cut is at the smallest, so all weigh alike.

    Args:
        counts: of patients by site, above 0; sites with 0 are no part of the mean.
        share: in (0, 1]; 1 cuts nothing.
    """
    sizes = sorted((n for n in counts.values() if n > 0), reverse=True)
    if share >= 1 or not sizes:
        return math.inf
    for j in range(len(sizes)):
        if j * share >= 1:
            break
        cut = share * math.fsum(sizes[j:]) / (1 - j * share)
        if sizes[j] <= cut:
            return cut if j else math.inf
    return sizes[-1]
