"""FedMEPD: encoders by sequence, a partly personal decoder, anchors of complete scans.

Liu et al., "Federated modality-specific encoders and partially personalized fusion decoder for
multimodal brain tumor segmentation", Medical Image Analysis 2025, arXiv 2603.04887; its first form
is FedMEMA (Dai et al., AAAI 2024): decoders wholly personal, three anchors a class.

    i site   m sequence   j filter of the decoder   l level   r round   s the anchor site's step
    E_m encoder   D decoder   A_l anchors   B_j^i 1 where filter j is federated at i   H its weight

    (1) E_m <- mean of E_m^i over the N_m sites that hold m, each alike
    (2) W̃_j = Σ_i H_j^i W_j^i / Σ_i H_j^i;  W_j <- λ W_j + (1 - λ) W̃_j, as it was where Σ H = 0
    (3) the anchor site trains E, D on complete scans; A_l <- see ``anchors``
    (4) site: D <- B ⊙ D^s + (1 - B) ⊙ D^i; B, H from two broadcasts, see ``personal_filters``
    (5) F_l^cal = softmax((F_l W_0)(A_l W_1)^T / sqrt(C_l)) A_l W_2 at the site, models.scan
    (6) L = L_fuse + L_prm + L_sep, objectives.segmentation, the same at sites and anchor site

What leaves a site: E_m of what it holds, the federated rows of D (personal ones are zero), B (a
byte a filter) and H. Calibration, auxiliary decoder, optimiser and personal rows stay.

Where paper and code leave room, the choice is a setting and the default stands first: the step (3)
at a hospital with complete scans, not on the coordinator; ``matching`` frozen | nearest;
patience 0 makes the decoder personal from the first round, another leaves all of it federated for
``pretrain`` rounds; sites download the encoders they hold, not all; n_i is the true one; a
personal model is the one after ``final_epochs`` passes over the last download, [reconstructed]:
the authors' evaluation reads a client as it is after its own training.
"Masks off is FedAvg" does not hold as published: with B = 1 the server keeps λ of itself and
weighs by H. FedAvg is λ = 0 with H = 1; ``tests/algorithms/test_fedmepd.py`` shows both.

Baselines are settings of the same halves: ``zero_fill`` is FedAvg on one network everywhere, in
which an absent sequence has features of zeros: what instance normalisation makes of an image of
zeros, without a slope that grows by 1/sqrt(eps) a layer until it overflows. ``decoder`` federated
without ``anchored`` is FedAvg keyed by sequence; ``encoder`` and ``decoder`` personal is local
training.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polyclinic.algorithms.anchors import (
    ANCHOR,
    MEMBER,
    Anchors,
    Matching,
    SampleMeans,
    renewed,
)
from polyclinic.algorithms.base import Trained
from polyclinic.algorithms.fold import Float64
from polyclinic.algorithms.personal_filters import FilterMemory, decoder_of, overlay
from polyclinic.algorithms.scan_agreement import (
    TOTAL,
    Agreement,
    contract_of,
    initial_state,
    root_of,
)
from polyclinic.algorithms.scan_task import Place, ScanTask, open_scan_task
from polyclinic.algorithms.scan_training import (
    ScanTraining,
    mask_of,
    network_of,
    require_tellable,
    scored,
    train_scans,
)
from polyclinic.algorithms.site import training_metrics, validation_scores
from polyclinic.algorithms.wire import (
    WEIGHT_RULES,
    Desk,
    OpenRound,
    WeightRule,
    announced,
    weight_of,
)
from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.errors import ContractViolation, StudyError
from polyclinic.exchange import (
    PERSONAL,
    Contract,
    State,
    Tensors,
    Update,
)
from polyclinic.filters import MASK, WEIGHT, filters_fault, layout_of, without_personal_rows
from polyclinic.models.tensors import difference, from_personal, load, tensors_of
from polyclinic.models.tensors import personal as as_personal
from polyclinic.study import Study
from polyclinic.training import Fit, require

FINAL = PERSONAL + "final."
FINAL_ROUND = PERSONAL + "finished.round"
# Of the site's model, what no algorithm shares.
ALONE = frozenset({"calib", "aux"})


def place_of(patients: Patients) -> Place:
    """Where these patients are."""
    return Place(patients.site, patients.study, patients.modalities)


@dataclass(frozen=True, kw_only=True)
class Client(Agreement, ScanTraining):
    """A hospital's half.

    Attributes:
        calibrated: (5), where there are anchors.
        patience: P; 0 makes every filter personal from the first round.
        pretrain: r_pre, rounds before filters may become personal.
        weight_memory: a in the rule of H.
        final_epochs: passes over the site's patients after the last download, which stay here.
        omega, matching: of the anchors, at the anchor site.
    """

    calibrated: bool = True
    patience: int = 10
    pretrain: int = 30
    weight_memory: float = 0.95
    final_epochs: int = 1
    omega: float = 0.999
    matching: Matching = "frozen"

    def __post_init__(self) -> None:
        Agreement.__post_init__(self)
        ScanTraining.__post_init__(self)
        for name in ("patience", "pretrain", "final_epochs"):
            value = getattr(self, name)
            require(type(value) is int and value >= 0, name, "a whole number, 0 or more", value)
        for name in ("weight_memory", "omega"):
            require(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
        require(self.matching in ("frozen", "nearest"), "matching", "frozen or nearest", "")

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        require_tellable(self, study)
        return contract_of(self, study)

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """An epoch of (6) from (4); sends E_m, the federated rows of D, B and H."""
        task = self._opened(patients, state, personal)
        fitted, memory = train_scans(task.model, patients, self, task.loss, personal, t)
        now = tensors_of(task.model)
        moved = difference({n: now[n] for n in task.start}, task.start)
        sent = self.contract(patients.study).names_for(patients.modalities, "train")
        update = {n: a for n, a in moved.items() if n in sent}
        memory |= as_personal({n: a for n, a in now.items() if root_of(n) in self._own_roots()})
        metrics = training_metrics(fitted)
        if task.filters is not None:
            mask = task.filters.mask
            update = without_personal_rows(update, mask)
            update |= {MASK: mask, WEIGHT: task.filters.weight * mask}
            seen, change, own = (decoder_of(p) for p in (state.tensors, moved, now))
            memory |= task.filters.trained(seen, change, own, state.round).tensors()
            metrics["filters/personal"] = float(1.0 - mask.mean())
        if self.validate_every and t % self.validate_every == 0:
            metrics |= self._validated(task, patients)
        return Trained(Update(update, announced(patients)), memory, metrics)

    def anchor(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """(3): an epoch of (6) on complete scans without calibration, and the anchors after it."""
        study = patients.study
        task = self._task(place_of(patients), state, personal, own=ALONE, auxiliary=True)
        old = Anchors.of(state.tensors, personal, patients.size("train"))
        found = SampleMeans.empty(
            patients.size("train"), network_of(study).channels, len(mask_of(study).classes)
        )

        def batch_loss(batch: Batch) -> Tensor:
            loss, output = task.told(batch)
            if batch.rows is not None:
                # Anchors are of complete scans: sites without a sequence calibrate by them.
                whole = torch.stack([*batch.present.values()]).all(dim=0)
                features = [f.detach()[whole] for f in output.features]
                found.add(batch.rows[whole], features, batch.labels[whole])
            return loss

        fitted, memory = train_scans(task.model, patients, self, batch_loss, personal, t, "anchor")
        # Of several records of a patient, all but one say nothing of how many patients there are.
        again = patients.size("train") - patients.distinct("train")
        new = renewed(
            old,
            found,
            slots=self.slots,
            least=patients.minimum_cell + again,
            omega=self.omega,
            matching=self.matching,
            seed=study.seed,
        )
        now = tensors_of(task.model)
        moved = difference({n: now[n] for n in task.start}, task.start)
        memory |= new.memory() | as_personal({n: a for n, a in now.items() if root_of(n) in ALONE})
        update = Update(moved | new.tensors(), announced(patients))
        return Trained(update, memory, training_metrics(fitted))

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """Lay the site's own filters over the last download, and train what stays here."""
        if MEMBER in personal:  # the anchor site's model is the global one
            return Trained(Update({}), personal)
        task = self._opened(patients, state, personal)
        fitted = Fit(float("nan"), 0)
        if self.final_epochs:
            settings = replace(self, epochs=self.final_epochs)
            # The step size of the last round: that of a round beyond the last would be none.
            t = state.round
            fitted, _ = train_scans(task.model, patients, settings, task.loss, personal, t, "final")
        kept = {n: a for n, a in tensors_of(task.model).items() if root_of(n) != "aux"}
        final = {FINAL + n: a for n, a in kept.items()}
        final[FINAL_ROUND] = np.array([state.round], dtype=np.float32)
        metrics = training_metrics(fitted) | self._validated(task, patients)
        return Trained(Update({}), personal | final, metrics)

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """Dice and HD95 of every patient of a split by the personal and the global model."""
        place = place_of(patients)
        models = {"personal": self._finished(place, state, personal).segment}
        if decoder_of(state.tensors):
            models["global"] = self._task(place, state, {}, own=frozenset()).segment
        return scored(patients, split, models, every_subset=self.subsets)

    def segment(
        self,
        batch: Batch,
        study: Study,
        state: State,
        personal: Tensors,
        *,
        model: Literal["personal", "global"] = "personal",
        sequences: tuple[str, ...] = (),
    ) -> Tensor:
        """Class of every voxel (I, J, K), uint8, of one patient's whole stack.

        Args:
            state: as the site received it, or the server's whole one.
            sequences: those that are shown to the model; all that the batch has when empty.

        Raises:
            StudyError: the batch has no sequence whose encoder is there.
        """
        place = Place("", study, self._readable(batch, state, personal))
        if model == "personal":
            task = self._finished(place, state, personal)
        else:
            task = self._task(place, state, {}, own=frozenset())
        return task.segment(batch, sequences or place.modalities)

    def _readable(self, batch: Batch, state: State, personal: Tensors) -> tuple[str, ...]:
        """Sequences of a batch whose encoders came with the state or are the site's own."""
        if self.zero_fill:
            return tuple(sorted(batch.inputs))
        names = {*state.tensors, *from_personal(personal)}
        there = {n.split(".")[1] for n in names if root_of(n) == "enc"}
        if not there & set(batch.inputs):
            raise StudyError(
                expected="a sequence whose encoder was trained",
                got=", ".join(sorted(batch.inputs)) or "none",
                remedy="name the run and the site that hold it",
            )
        return tuple(sorted(there & set(batch.inputs)))

    def _validated(self, task: ScanTask, patients: Patients) -> dict[str, float]:
        """Scores of the validation patients by the model as it is."""
        found = scored(patients, "validation", {"personal": task.segment}, every_subset=False)
        return validation_scores(found, patients)

    def _own_roots(self) -> frozenset[str]:
        """First parts of the names of what stays at the site whole."""
        decoder = {"dec"} if self.decoder == "personal" else set()
        encoder = {"enc"} if self.encoder == "personal" else set()
        return ALONE | decoder | encoder

    def _finished(self, place: Place, state: State, personal: Tensors) -> ScanTask:
        """The personal model as ``finalise`` left it; before that, as the last download made it."""
        if MEMBER in personal:
            return self._task(place, state, {}, own=frozenset())
        task = self._personal_task(place, state, personal)
        number = personal.get(FINAL_ROUND)
        if number is not None and int(number[0]) == state.round:
            kept = personal.items()
            load(task.model, {n.removeprefix(FINAL): a for n, a in kept if n.startswith(FINAL)})
        return task

    def _opened(self, patients: Patients, state: State, personal: Tensors) -> ScanTask:
        """The model a site starts a round from, after (1) and (2) of ``personal_filters``."""
        if self.decoder != "partial" or not self.patience or state.round <= self.pretrain:
            return self._personal_task(place_of(patients), state, personal)
        broadcast, total = decoder_of(state.tensors), float(state.tensors[TOTAL][0])
        memory = FilterMemory.of(personal, layout_of(broadcast), self.patience)
        filters = memory.after(
            broadcast,
            state.round,
            limit=self.patience,
            share=min(1.0, announced(patients)["n"] / total) if total else 1.0,
            keep=self.weight_memory,
        )
        return self._personal_task(place_of(patients), state, personal, filters)

    def _personal_task(
        self, place: Place, state: State, personal: Tensors, filters: FilterMemory | None = None
    ) -> ScanTask:
        """The site's model with its own filters laid over the broadcast decoder.  (4)"""
        task = self._task(
            place, state, personal, own=self._own_roots(), auxiliary=True, calibrated=self.anchored
        )
        if self.decoder == "partial":
            broadcast = decoder_of(state.tensors)
            if filters is None:
                filters = FilterMemory.of(personal, layout_of(broadcast), self.patience)
            mine = overlay(broadcast, filters.own, filters.mask)
            load(task.model, mine)
            task.start |= mine
            task.filters = filters
        return task

    def _task(
        self,
        place: Place,
        state: State,
        personal: Tensors,
        *,
        own: frozenset[str],
        auxiliary: bool = False,
        calibrated: bool = False,
    ) -> ScanTask:
        return open_scan_task(
            place,
            state,
            personal,
            own=own,
            calibrated=calibrated and self.calibrated,
            auxiliary=auxiliary,
            everything=self.zero_fill,
        )


def _row_weights(tensors: Tensors) -> dict[str, Float64]:
    """H of each row of a site's decoder; 0 where a filter is personal.

    Raises:
        ContractViolation: masks or weights are missing or not what ``filters_fault`` passes.
    """
    fault = filters_fault(tensors) if {MASK, WEIGHT} <= tensors.keys() else "no mask or no weights"
    if fault:
        raise ContractViolation(
            expected="the mask and weights of filters, and rows of federated ones alone",
            got=fault,
            remedy="refuse the update",
        )
    decoder, weight = decoder_of(tensors), np.asarray(tensors[WEIGHT], dtype=np.float64)
    layout = layout_of(decoder)
    return {n: weight[layout.rows(n)] for n in decoder}


@dataclass(frozen=True, kw_only=True)
class Server(Agreement):
    """The coordinator's half: (1) and (2), and what the anchor site did in (3).

    Attributes:
        kept: λ of (2), what the server keeps of its own filter; 0 in FedAvg.
        weight: of an encoder in (1), and of a decoder that is federated whole: each site alike, or
            by its patients.
    """

    kept: float = 0.3
    weight: WeightRule = "uniform"
    desk: Desk = field(default_factory=Desk, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        Agreement.__post_init__(self)
        require(0.0 <= self.kept < 1.0, "kept", "in [0, 1)", self.kept)
        require(self.weight in WEIGHT_RULES, "weight", "n_k, n or uniform", self.weight)

    @property
    def wants_anchor(self) -> bool:
        """Whether rounds end with (3)."""
        return self.anchored

    def contract(self, study: Study) -> Contract:
        """Every tensor that may cross the wall."""
        return contract_of(self, study)

    def initial(self, study: Study) -> State:
        """Encoders and decoder drawn from the study's seed; no anchor is known."""
        return initial_state(self, study)

    def begin(self, study: Study, state: State, t: int) -> None:
        """Open round ``t``."""
        self.desk.open(self.contract(study), state, t)

    def accept(self, site: str, update: Update) -> None:
        """Fold one update; a second of the same site is refused."""
        opened, rows = self.desk.round, {}
        if self.decoder == "partial":
            rows = _row_weights(update.tensors)
            n = weight_of("n", None, update.scalars)
        opened.accept(site, update, self.weight, rows)
        if self.decoder == "partial":
            # Summed exactly, like everything that is folded.
            opened.means.add(site, TOTAL, np.array([n]))

    def finish(self) -> State:
        """The next state; without updates the old tensors, bit for bit."""

        def fold(opened: OpenRound) -> Tensors:
            out = opened.folded(1.0, {"dec": 1.0 - self.kept if self.decoder == "partial" else 1.0})
            if self.decoder == "partial":
                total = opened.means.mean(TOTAL) * opened.means.weight(TOTAL)
                out[TOTAL] = np.asarray(total, dtype=np.float32)
            return out

        return self.desk.close(fold)

    def absorb(self, state: State, update: Update) -> State:
        """The state after (3): differences are added, anchors replaced."""
        tensors = dict(state.tensors)
        for name, value in update.tensors.items():
            new = np.asarray(value, dtype=np.float32)
            old = np.asarray(tensors[name], dtype=np.float32)
            tensors[name] = new if name.startswith(ANCHOR) else old + new
        return State(tensors, state.round)
