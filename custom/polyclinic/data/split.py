"""Who trains, who chooses and who is held out: always by patient, never by record."""

import hashlib
from collections.abc import Sequence

import numpy as np

from polyclinic.data.batch import SplitName
from polyclinic.data.manifest import Patient
from polyclinic.study import Split

SPLIT_NAMES: tuple[SplitName, ...] = ("train", "validation", "test")


def split_generator(seed: int, site: str) -> np.random.Generator:
    """The generator of a site's split: seeded by SHA-256 of the seed and the site's name."""
    digest = hashlib.sha256(f"split/{seed}/{site}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def held_out(count: int, fraction: float) -> int:
    """How many of ``count`` patients of a class to hold out: rounded, and never all or none."""
    if count < 2 or fraction == 0.0:
        return 0
    return min(max(round(count * fraction), 1), count - 1)


def assign(patients: Sequence[Patient], rule: Split, seed: int, site: str) -> list[SplitName]:
    """The split of each patient, in the order given.

    Guarantees:
      - It depends on the seed, the site's name and the set of patients, not on their order.
      - With ``source: manifest`` it is what the manifest says.
      - Stratified: a class of at least two patients is in train and in every held-out split
        while patients last.
    """
    if rule.source == "manifest":
        return [p.split or "train" for p in patients]
    order = sorted(range(len(patients)), key=lambda i: patients[i].pseudonym)
    generator = split_generator(seed, site)
    drawn: list[SplitName] = ["train"] * len(patients)
    strata = [p.label if rule.stratify else 0 for p in patients]
    for stratum in sorted(set(strata)):
        members = [i for i in order if strata[i] == stratum]
        shuffled = [members[j] for j in generator.permutation(len(members))]
        tests = held_out(len(shuffled), rule.test)
        validations = held_out(len(shuffled) - tests, rule.validation)
        for i in shuffled[:tests]:
            drawn[i] = "test"
        for i in shuffled[tests : tests + validations]:
            drawn[i] = "validation"
    return drawn
