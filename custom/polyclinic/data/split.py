"""Who trains, who chooses and who is held out: always by patient, never by record."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from polyclinic.data.batch import SplitName
from polyclinic.data.labels import Answer
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
    """The split of each row, in the order given; all records of a patient are in one.

    Guarantees:
      - It depends on the seed, the site's name and the set of patients, not on their order.
      - With ``source: manifest`` it is what the manifest says.
      - Stratified: a class of at least two patients is in train and in every held-out split
        while patients last. The labels of a multi-label task are kept together as combinations,
        of which those too rare to be divided are divided as one.
    """
    if rule.source == "manifest":
        return [p.split or "train" for p in patients]
    strata = strata_of(patients, rule)
    order = sorted(strata)
    generator = split_generator(seed, site)
    drawn: dict[str, SplitName] = dict.fromkeys(order, "train")
    for stratum in sorted(set(strata.values())):
        members = [p for p in order if strata[p] == stratum]
        shuffled = [members[j] for j in generator.permutation(len(members))]
        tests = held_out(len(shuffled), rule.test)
        validations = held_out(len(shuffled) - tests, rule.validation)
        for pseudonym in shuffled[:tests]:
            drawn[pseudonym] = "test"
        for pseudonym in shuffled[tests : tests + validations]:
            drawn[pseudonym] = "validation"
    return [drawn[p.pseudonym] for p in patients]


def strata_of(patients: Sequence[Patient], rule: Split) -> Mapping[str, tuple[int, ...]]:
    """What each patient is divided by: the class, or the combination of known labels.

    Of several records the highest counts: the last class, and yes before no before unknown.
    """
    found: dict[str, tuple[int, ...]] = {}
    for p in patients:
        answer = _as_tuple(p.label)
        kept = found.get(p.pseudonym, answer)
        found[p.pseudonym] = tuple(max(pair) for pair in zip(kept, answer, strict=True))
    if not rule.stratify:
        return dict.fromkeys(found, ())
    if all(isinstance(p.label, int) for p in patients):
        return found
    held = [f for f in (rule.test, rule.validation) if f]
    least = max([2, *(math.ceil(1 / f) for f in held)])  # one of them at least is held out fairly
    counts = Counter(found.values())
    return {p: s if counts[s] >= least else () for p, s in found.items()}


def _as_tuple(answer: Answer) -> tuple[int, ...]:
    return (answer,) if isinstance(answer, int) else answer
