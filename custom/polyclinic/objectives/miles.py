"""MILES: a learning rate per modality from how much the joint model uses it.

Guerra-Manzanares, Shamout, "MILES: Modality-informed learning rate scheduler for balancing
multimodal learning", IJCNN 2025, arXiv 2510.17394. Equations (3) to (5) and the rule are those of
a public re-implementation that cites the paper's numbers; the paper's own grid of τ and μ, its base
rate and its tables could not be read, and more than two modalities are our extension.

S is a score of which higher is better, S_all of the joint head, S_{all-m} without modality m; with
two modalities S_{all-A} is S_B, the score of B's own head. (3) is the sum of the heads' losses,
which ``polyclinic.algorithms.heads`` computes.
"""

from collections.abc import Mapping


def utilisation(joint: float, without: Mapping[str, float]) -> dict[str, float]:
    """u_m = (S_all - S_{all-m}) / S_all, by modality; empty when S_all is not above 0.  (4)"""
    if joint <= 0:
        return {}
    return {m: (joint - s) / joint for m, s in without.items()}


def gap(used: Mapping[str, float]) -> float:
    """δ = max_m u_m - min_m u_m.  (5)

    With two modalities |u_A - u_B| = |S_A - S_B| / S_all: the relative gap between the two heads.
    """
    return max(used.values()) - min(used.values()) if used else 0.0


def multipliers(used: Mapping[str, float], *, tau: float, mu: float) -> dict[str, float]:
    """What each modality's learning rate is multiplied by until the next epoch ends.

    Guarantees (tests/objectives/test_miles.py):
      - D1 equal utilisation changes nothing. D2 every factor is 1 or μ, and at most one is μ.
      - D3 nothing changes while every head beats the joint one (all u < 0).
      - D7 swapping two names swaps their factors. A tie for the largest u changes nothing.
    """
    rates = dict.fromkeys(used, 1.0)
    if len(used) < 2 or all(u < 0 for u in used.values()) or gap(used) <= tau:
        return rates
    largest = max(used.values())
    dominant = [m for m, u in used.items() if u == largest]
    if len(dominant) == 1:
        rates[dominant[0]] = mu
    return rates
