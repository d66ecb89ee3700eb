"""Sites of the toy in ``plugins/stepping.py`` for a ``Ward``, and what its numbers must be.

Personal tensors are kept as a site's disk keeps them: by round, for the jobs that continue a run.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.shareable import Shareable
from safetensors.numpy import load_file

from flare.counting import STUDY
from flare.plugins import stepping
from flare.ward import Answer, Ward
from polyclinic.exchange import Tensors, Update
from polyclinic.flare.controller import Rounds
from polyclinic.flare.convert import ANCHOR, CENSUS, TRAIN, read_task, reply
from polyclinic.ledger import Record
from polyclinic.study import Study, parse_study

HELD = {
    "site-1": ("wsi",),
    "site-2": ("cnv", "wsi"),
    "site-3": ("cnv",),
    "site-4": ("cnv", "wsi"),
}
Spoil = Callable[[Shareable], Shareable | None]


@dataclass(frozen=True)
class Patients:
    """As much of a cohort as the toy asks for."""

    modalities: tuple[str, ...]
    study: Study = field(default_factory=lambda: parse_study(STUDY))

    def size(self, split: str) -> int:
        return 20


@dataclass
class Hospital:
    """A site's answers.

    Attributes:
        offers: says in the census that it may be the anchor site.
        spoils: by task and round, what becomes of its good answer.
        kept: personal tensors by round.
        asked: task and round of every question.
    """

    site: str
    offers: bool = False
    spoils: dict[tuple[str, int], Spoil] = field(default_factory=dict)
    client: stepping.Client = field(default_factory=stepping.Client)
    kept: dict[int, Tensors] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    study: dict[str, Any] = field(default_factory=lambda: STUDY)

    def __call__(self, task: str, data: Shareable) -> Shareable | None:
        """The answer to a task."""
        if task == CENSUS:
            facts = {"modalities": list(HELD[self.site]), "n": 20.0}
            facts |= {"fingerprint": parse_study(self.study).fingerprint()}
            return reply(Update({}, facts | ({"anchor": 1.0} if self.offers else {})))
        state, scalars = read_task(data)
        t = int(scalars["t"])
        self.asked.append((task, t))
        if task not in (TRAIN, ANCHOR):
            return reply(Update({}, {}), {"test/auroc": 0.5})
        personal = self.kept.get(max((r for r in self.kept if r < t), default=-1), {})
        step = self.client.train if task == TRAIN else self.client.anchor
        done = step(Patients(HELD[self.site]), state, personal, t)  # type: ignore[arg-type]
        told = Update(done.update.tensors, done.update.scalars | {"t": float(t)})
        answer = reply(told, done.metrics)
        spoil = self.spoils.get((task, t))
        if spoil is not None:
            return spoil(answer)
        self.kept[t] = done.personal
        return answer


def hospitals(offering: Iterable[str] = ("site-2",), **special: Any) -> dict[str, Answer]:
    """Four sites, of which some offer themselves; ``site2={...}`` are a site's spoils."""
    return {s: Hospital(s, s in offering, special.get(s.replace("-", ""), {})) for s in HELD}


def stepped(rounds: int, **args: Any) -> Rounds:
    """A job of the toy with short deadlines."""
    settings: dict[str, Any] = {
        "min_sites": 2,
        "round_deadline": 1.5,
        "fetch_deadline": 1.0,
        "census_deadline": 1.5,
    }
    server = stepping.Server(wants_anchor=args.pop("wants_anchor", True))
    return Rounds(server, rounds, **(settings | args))


def last(ward: Ward) -> Tensors:
    """The state at the end of a ward's job."""
    folder: Path = ward.folder / ward.job / "polyclinic" / "checkpoints"
    return load_file(folder / "last.safetensors")


def steps(records: list[Record]) -> list[Record]:
    """What the ledger says of every anchor step, the one before the first round included."""
    return [r if r["kind"] == "anchor" else r["anchor"] for r in records if _has_step(r)]


def _has_step(record: Record) -> bool:
    return record["kind"] == "anchor" or (record["kind"] == "round" and "anchor" in record)


def expected(done: Iterable[bool], first: int = 0) -> float:
    """Every entry of an encoder after the step before round 1 and rounds with or without a step.

    Args:
        done: whether each step was absorbed, the one before the first round first.
        first: steps the anchor site remembers beforehand.
    """
    value, remembered = 0.0, first
    for t, absorbed in enumerate(done):
        value += t > 0  # the round before this step
        if absorbed:
            value += 10 + remembered
            remembered += 1
    return value


def everywhere(tensors: Tensors, prefix: str, value: float) -> bool:
    """Whether all entries under a prefix are this number exactly."""
    return all((a == value).all() for n, a in tensors.items() if n.startswith(prefix))


def poisoned(answer: Shareable) -> Shareable:
    """How: a NaN among the tensors."""
    answer["DXO"]["data"]["dec.a.bias"][0] = np.nan
    return answer
