"""What a site answers with: its cohort, the client half of an algorithm, and the checks around it.

A reply holds only what may leave, plus ``personal/`` tensors that FLARE's process keeps on disk.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from polyclinic import __version__
from polyclinic.algorithms.base import AnchorClient, Client, Trained
from polyclinic.algorithms.site import tellable, told_scores
from polyclinic.data.batch import Patients, SplitName
from polyclinic.data.cohort import Cohort, open_cohort
from polyclinic.device import on_device, require_device
from polyclinic.errors import SiteError, StudyError
from polyclinic.evaluation.metrics import BY_LABEL
from polyclinic.exchange import PERSONAL, Contract, State, Tensors, Way
from polyclinic.jobs import build_half
from polyclinic.models.weights import weights_at
from polyclinic.settings import SiteSettings
from polyclinic.study import Study
from polyclinic.worker.checks import checked, floored, listed, telling
from polyclinic.worker.frame import Message, joined

# A weight may grow to several times what one round may add to it.
VALUES = 10.0
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
# Who was in which split at the end of a run; stays at the site, for scores of single patients.
SPLIT_MARK = PERSONAL + "cohort.split"
Step = Callable[[Patients, State, Tensors, int], Trained]


def build_client(spec: Mapping[str, Any]) -> Client:
    """The client half a job names.

    Raises:
        StudyError: no class under ``polyclinic.algorithms``, other arguments than it takes, or
            not a client half.
    """
    client = build_half(spec)
    if not isinstance(client, Client):
        raise StudyError(
            expected="a class with contract, train, finalise and predict",
            got=f"'{spec.get('path')}'",
            remedy="name the algorithm's Client in config_fed_client.json",
        )
    return client


def large_enough(cohort: Cohort) -> Cohort:
    """The cohort with those of its modalities that enough training patients carry.

    An update tells about the patients behind it, so it has at least a smallest cell of them.

    Raises:
        SiteError: no modality has; whoever reads it learns nothing but that.
    """
    least = cohort.minimum_cell
    kept = [m for m in cohort.modalities if cohort.distinct("train", m) >= least]
    if not kept:
        raise SiteError(
            expected="as many training patients with a modality of the study as minimum_cell asks",
            got="fewer",
            remedy="leave this study, or add patients",
            owner="data manager",
        )
    return replace(cohort, selection=cohort.selection.restricted(kept))


@dataclass(frozen=True)
class Desk:
    """A site's side of a study, opened once and asked again and again."""

    settings: SiteSettings
    study: Study
    client: Client
    patients: Patients
    contract: Contract
    device: torch.device

    @classmethod
    def open(cls, settings: SiteSettings, study: Study, client: Client) -> "Desk":
        """Read the cohort; fix the process's threads and the device.

        Raises:
            PolyclinicError: the device is not there, or the cohort or the study cannot be used as
                it is, or too few patients would be behind an update.
        """
        torch.set_num_threads(settings.threads)
        device = require_device(settings.device)
        patients = large_enough(open_cohort(settings, study))
        return cls(settings, study, client, patients, client.contract(study), device)

    def answer(self, request: Message) -> Message:
        """The reply to one task."""
        answers = {
            "census": self.census,
            "train": self.train,
            "anchor": self.anchor,
            "finalise": self.finalise,
            "evaluate": self.evaluate,
        }
        with on_device(self.device), weights_at(self.settings.weights):
            return answers[request.head["do"]](request)

    def census(self, request: Message) -> Message:
        """What this site holds: counts, modalities, the study it read; nothing about a patient."""
        counts = {"n": float(self.patients.size("train"))}
        for modality in self.patients.modalities:
            counts[f"n.{modality}"] = float(self.patients.count("train", modality))
        scalars: dict[str, Any] = floored(counts, self.settings.minimum_cell)
        scalars |= {
            "modalities": list(self.patients.modalities),
            "fingerprint": self.study.fingerprint(),
            "version": __version__,
        }
        if self._offers_anchor:
            scalars["anchor"] = 1.0
        return Message({"scalars": scalars | self._quarantined(), "metrics": {}})

    def train(self, request: Message) -> Message:
        """One round of local training."""
        return self._updated(request, self.client.train, "train")

    def anchor(self, request: Message) -> Message:
        """The server's training step between rounds, where this site offers to do it.

        Raises:
            SiteError: it does not, it lacks a modality, or the algorithm has no such step.
        """
        if not self._offers_anchor or not isinstance(self.client, AnchorClient):
            raise SiteError(
                expected="an anchor site: 'anchor: true' in its polyclinic.yaml, every modality of "
                "the study, and an algorithm with a step for it",
                got="a site without one of these",
                remedy="offer it, or ask another site",
                owner="data manager",
            )
        return self._updated(request, self.client.anchor, "anchor")

    @property
    def _offers_anchor(self) -> bool:
        whole = set(self.patients.modalities) == set(self.study.modalities)
        return whole and self.settings.cohort(self.study.name).anchor

    def _updated(self, request: Message, step: Step, way: Way) -> Message:
        """The reply of a step whose update leaves."""
        t, held = int(request.head["t"]), self.patients.modalities
        state, personal = self._state(request), request.part("personal")
        trained = step(self.patients, state, personal, t)
        telling(checked(trained.update.tensors, self.contract, held, way))
        scalars = floored(trained.update.scalars, self.settings.minimum_cell)
        reply = self._reply(trained, scalars | {"t": float(t)})
        # The egress filter holds the update to it once more.
        names = sorted(self.contract.names_for(held, way))
        reply.head["contract"] = {n: asdict(self.contract.specs[n]) for n in names}
        return reply

    def finalise(self, request: Message) -> Message:
        """Fit what stays local on the final state; no tensor leaves."""
        state = self._state(request)
        trained = self.client.finalise(self.patients, state, request.part("personal"))
        personal = dict(trained.personal)
        if self.study.task.segments and isinstance(self.patients, Cohort):
            personal[SPLIT_MARK] = self.patients.split_mark()
        kept = Trained(type(trained.update)({}), personal, trained.metrics)
        return self._reply(kept, {"t": float(state.round)})

    def evaluate(self, request: Message) -> Message:
        """Scores of the site's own splits, where patients enough stand behind them."""
        state, personal = self._state(request), request.part("personal")
        metrics: dict[str, float] = {}
        for split in request.head["splits"]:
            if self.patients.size(split) and self._tellable(split):
                found = self.client.predict(self.patients, state, personal, split)
                values = told_scores(found, self.patients, split)
                metrics |= {f"{split}/{k}": v for k, v in values.items()}
        return Message({"scalars": {}, "metrics": self._metrics(metrics)})

    def _tellable(self, split: SplitName) -> bool:
        """Whether training as a whole is no smaller than a cell of patients; of another split, no
        class, or both sides of one label at least."""
        if split == "train":
            return self.patients.distinct(split) >= self.settings.minimum_cell
        return any(self._told(split))

    def _told(self, split: SplitName) -> list[bool]:
        """Whether all classes together may be told of, or each of the labels."""
        told = tellable(self.patients.people(split), self.settings.minimum_cell)
        return [bool(fine) for fine in told.reshape(-1)]

    def _metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The listed metrics that may be told.

        A number of rows set aside is told where a row is a patient; one of records says nothing
        of how many patients.

        Raises:
            ContractViolation: a name that is not listed, or a value that is no finite number.
        """
        hidden = tuple(f"{s}/" for s in SPLITS if not self._tellable(s))
        task, least = self.study.task, self.settings.minimum_cell
        small: set[str] = set()
        if task.multi_label:
            for split in SPLITS:
                told = zip(task.names, self._told(split), strict=True)
                small |= {
                    f"{split}/{k}/{name}" for name, fine in told if not fine for k in BY_LABEL
                }
        records = self.patients.size("train") > self.patients.distinct("train")
        return {
            k: v
            for k, v in listed(metrics).items()
            if not k.startswith(hidden)
            and k not in small
            and not (k.startswith("quarantined") and (0 < v < least or records))
        }

    def _state(self, request: Message) -> State:
        held, came = self.patients.modalities, request.part("state")
        tensors = checked(came, self.contract, held, "state", slack=VALUES)
        return State(tensors, int(request.head["round"]))

    def _quarantined(self) -> dict[str, float]:
        report = getattr(self.patients, "quarantine", None)
        counts, people = (report.lost, report.people) if report else ({}, {})
        least = self.settings.minimum_cell
        return {f"quarantined.{r}": float(n) for r, n in counts.items() if people[r] >= least}

    def _reply(self, trained: Trained, scalars: Mapping[str, float]) -> Message:
        tensors = joined(update=trained.update.tensors, personal=trained.personal)
        return Message(
            {"scalars": dict(scalars), "metrics": self._metrics(trained.metrics)}, tensors
        )
